import { expect, test } from "bun:test";
import { addressOf, PAGE_PATH } from "../harness/address.ts";
import { library, seed } from "../harness/library.ts";
import { kekHex, type Running, run, start, stop, testInstall, until } from "../harness/program.ts";
import { movedTo } from "../harness/schedule.ts";
import { focused, inspect, open, reads } from "./browser.ts";

/** The page through a real rotation of a real fleet: what a person reads in each state, in a browser that follows it live. */

/** A process that is stopped for a while is waited for, and not evicted. */
const TIMES = { beatMs: 500, leaseMs: 6000, evictionMs: 90_000, drainMs: 300 };

test(
  "before, phase by phase, after, cancelled, reverted, with a process missing and others that disagree",
  async () => {
    const install = await testInstall(TIMES);
    const versions = [1, 2, 3];
    const seeder = await library(install, versions, 1, "seeder", TIMES);
    await seed(seeder, install, 900);
    await seed(seeder, install, 300, "accounts", "token");
    await seeder.close();
    const [api1, api2, worker] = (await Promise.all(
      ["api-1", "api-2", "worker-1"].map((name) =>
        install.serve(name, versions, 2, { CERTAUTOPILOT_FIELDS: "secrets:value" }),
      ),
    )) as [Running, Running, Running];
    const library1 = await library(install, versions, 2, "billing", TIMES);
    const operator = install.variables(versions, 2);
    const rotate = (...words: string[]) => start(["kek", "rotate", "--no-backup-check", ...words], operator);
    const viewed = await open(addressOf(api1));
    const { page } = viewed;

    // Before: every process declares what comes next, which is no fault of theirs alone.
    await reads(viewed, "#glance", "v1");
    await reads(viewed, "#link", "live");
    await reads(viewed, "#fleet", "billing");
    expect(await page.locator("#fleet tbody tr").count()).toBe(4);
    await reads(viewed, "#version-counts", "v1 900 (100%)");
    await reads(viewed, "#history", "No rotation has ended yet.");
    await inspect(viewed, "1-before");

    // Phase 1 waits for a process that does not answer.
    api2.kill("SIGSTOP");
    const first = rotate("--to-version=2", "--max-rate=25");
    await first.says("phase 1");
    await reads(viewed, "#health h2", /Rotation 1 → 2 is in phase 1 of 3 \(announce\) and waits for api-2/i);
    await reads(viewed, "#rotation .awaited", "api-2");
    await reads(viewed, "#rotation [aria-current=step]", "1 Announce");
    await reads(viewed, "#fleet tr", /api-2.*awaited/);
    await reads(viewed, "#rotation code", "certautopilot kek rotate --cancel");
    await inspect(viewed, "2-phase-1");
    api2.kill("SIGCONT");

    // Phase 2 counts, and tells how fast.
    await reads(viewed, "#rotation [aria-current=step]", "2 Re-wrap");
    await reads(viewed, "#rotation .facts", /records\/s/);
    await page.locator("#rotation .pace polyline").waitFor({ timeout: 20_000 });
    await reads(viewed, "#health h2", /phase 2 of 3 \(re-wrap\): \d+% of the records moved/);
    await reads(viewed, "#rotation", "Waits for nobody");
    await inspect(viewed, "3-phase-2");

    // What a person has opened and reached stays so while the sections change.
    await page.locator("#acknowledged summary").focus();
    await page.keyboard.press("Enter");
    const moved = await page.locator("#rotation .big").innerText();
    await until("the count moves on", async () => (await page.locator("#rotation .big").innerText()) !== moved);
    expect(await page.locator("#acknowledged").getAttribute("open")).not.toBeNull();
    expect(await focused(viewed)).toBe("acknowledged-s");

    // Cancelled half way: what to do now is on the page, to be copied.
    expect((await run(["kek", "rotate", "--cancel"], operator)).code).toBe(0);
    await first.exited;
    await reads(viewed, "#health .level", "To do soon");
    await reads(viewed, "#rotation", "Cancelled half way");
    await reads(viewed, "#rotation .next-steps", "certautopilot kek rotate --to-version=1 --from-version=2");
    await inspect(viewed, "4-cancelled");

    // Taken back, the history says so; then the fleet rotates for good.
    expect((await run(["kek", "rotate", "--to-version=1", "--from-version=2"], operator)).code).toBe(0);
    await reads(viewed, "#history tbody tr", /v1 → v2.*reverted/);
    await reads(viewed, "#history tbody tr", /v2 → v1.*completed.*the reverse rotation of 1/);
    await reads(viewed, "#glance", "v1");

    // Phase 3 waits for a process that was stopped after it had acknowledged phase 2.
    const second = rotate("--to-version=2", "--from-version=1", "--max-rate=400");
    // Nothing moves before that.
    await movedTo(install, 2, 1);
    worker.kill("SIGSTOP");
    await reads(viewed, "#health h2", /phase 3 of 3 \(settle\) and waits for worker-1/);
    await reads(viewed, "#rotation", "up: MongoDB rejects v1");
    await inspect(viewed, "5-phase-3");
    worker.kill("SIGCONT");
    expect((await second.exited).code).toBe(0);
    await reads(viewed, "#health .level", "Healthy");
    await reads(viewed, "#health h2", "Healthy: 4 processes serve and write under KEK version 2");
    await reads(viewed, "#history tbody tr", /v1 → v2.*completed/);
    await reads(viewed, "#versions tbody tr", /v2.*active/);
    await reads(viewed, "#audit", "chain whole");
    expect(await page.locator("#rotation").isVisible()).toBe(false);
    await inspect(viewed, "6-after");

    // One is killed; one holds other bytes for version 3; one declares another version.
    const wrong = await install.serve("wrong-key", [1, 2], 2, { CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V3: kekHex() });
    const other = await install.serve("declares-3", versions, 3);
    await page.locator("#drift summary").click();
    await reads(viewed, "#fleet .problems", "wrong-key");
    await reads(viewed, "#fleet .problems", /declares-3.*declares current version 3, and the install is at 2/);
    await reads(viewed, "#health .level", "Needs attention");
    await reads(viewed, "#versions tbody tr", /v3.*wrong key/);
    await inspect(viewed, "7-mismatch");
    await stop(wrong, other);
    worker.kill("SIGKILL");
    await reads(viewed, "#health", /worker-1 .*is silent: its last heartbeat was/);
    await reads(viewed, "#fleet tr", /worker-1.*silent/);
    await inspect(viewed, "8-missing");

    // Without JavaScript the same is there, and is loaded again.
    const plain = await open(addressOf(api1), { javaScriptEnabled: false });
    await reads(plain, "#health .level", "Needs attention");
    expect(await plain.page.content()).toContain('<meta http-equiv="refresh" content="10">');
    await plain.page.screenshot({ path: "test-output/page/9-no-javascript.png", fullPage: true });
    expect(plain.complaints).toEqual([]);

    // The keyboard reaches whatever can be opened or scrolled, the link past the head first.
    await page.goto(addressOf(api1) + PAGE_PATH);
    const reached: string[] = [];
    for (let press = 0; press < 12; press += 1) {
      await page.keyboard.press("Tab");
      reached.push(await focused(viewed));
    }
    expect(reached[0]).toBe("skip");
    for (const box of ["versions-box", "fleet-box", "history-box", "audit-box"]) expect(reached).toContain(box);

    // The server goes: the page says that it is old.
    await reads(viewed, "#link", "live");
    await stop(api1);
    await reads(viewed, "#stale", /connection to this server is lost/);
    await reads(viewed, "#link", "not live");
    await inspect(viewed, "10-connection-lost", "gone");
    await library1.close();
    await stop(api2);
  },
  { timeout: 300_000 },
);
