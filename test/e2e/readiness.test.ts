import { expect, test } from "bun:test";
import { appendFileSync, chmodSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Context } from "../../src/rotation/context.ts";
import { evictNamed, namedEvictions } from "../../src/rotation/named_evictions.ts";
import { readRoster } from "../../src/store/heartbeats.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import {
  FAST,
  kekHex,
  type Ran,
  type Running,
  run,
  stop,
  type TestInstall,
  testInstall,
  until,
  type Variables,
} from "../harness/program.ts";
import { eventsAfter, expectRefusal, expectSilentAbout, lastSeq } from "../harness/refusal.ts";
import { evicted, heartbeat, kek, movedTo, proveAll, rotating, seededInstall, serveAll } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { onTerminal } from "../harness/terminal.ts";
import { among, beating, expectUnready, forge } from "../harness/unready.ts";

/** Who keeps a rotation from starting, and who may not even serve: each is named, with what to do about it. */

const KEK = "CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V";
const CURRENT = "CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION";
const OTHER_KEY = kekHex();
const directory = scratchDirectory();
const addressOf = (process: Running) => /ready on (http:\S+?),/.exec(process.stderr)?.[1] ?? "";

// On a busy machine a process that beats every 200 ms may pause for more than a second.
const TIMES = { ...FAST, leaseMs: 3000, evictionMs: 6000 };
const install = await seededInstall(30, TIMES);
await serveAll(install, "steady");

const ODD: [string, number[], number, Variables, RegExp, RegExp][] = [
  ["lacks V2", [1], 2, {}, /does not hold KEK version 2/, /KEK_V2/],
  ["has other bytes under V2", [1, 2], 2, { [`${KEK}2`]: OTHER_KEY }, /other bytes under KEK version 2/, /the key .*2/],
  ["declares V1", [1, 2], 1, {}, /declares current version 1, not 2/, /CURRENT_VERSION=2/],
  ["declares nothing", [1, 2], 2, { [CURRENT]: "" }, /declares no current version, not 2/, /CURRENT_VERSION=2/],
  ["has other fleet times", [1, 2], 2, { CERTAUTOPILOT_FLEET_DRAIN_MS: "400" }, /other fleet times/, /FLEET_/],
];
test.each(
  ODD,
)("a process that %s is named by verify and refused by rotate", async (_what, versions, current, ...rest) => {
  const [over, words, hint] = rest;
  const [odd] = await among([install.serve("odd", versions, current, over)], () =>
    expectUnready(install, [{ name: "odd", words, hint }]),
  );
  expectSilentAbout((await odd?.exited) as Ran, [OTHER_KEY, ...Object.values(install.keks)]);
});

test("a process of the other provider is named by verify and refused by rotate", async () => {
  const id = await forge(install, "steady", { instance_name: "hsm", provider: "pkcs11" });
  await beating(install, id, () =>
    expectUnready(install, [{ name: "hsm", words: /provider "pkcs11".*"env"/, hint: /ENCRYPTION_PROVIDER=env/ }]),
  );
});

test("a silent process is named by verify and refused by rotate, and is ready again when it wakes", async () => {
  await among([install.serve("asleep", [1, 2], 2)], async (asleep) => {
    asleep?.kill("SIGSTOP");
    await Bun.sleep(3300);
    await expectUnready(install, [
      { name: "asleep", words: /silent: its last heartbeat was \d/, hint: /start it .*--evict=/ },
    ]);
    asleep?.kill("SIGCONT");
    await until("it is ready again", async () => (await kek(install, "verify", "--target=2")).code === 0);
  });
});

test("of several unready processes each one is named", async () => {
  await among([install.serve("poor", [1], 2), install.serve("late", [1, 2], 1)], () =>
    expectUnready(install, [
      { name: "poor", words: /poor .*does not hold KEK version 2/, hint: /KEK_V2/ },
      { name: "late", words: /late .*declares current version 1/, hint: /CURRENT_VERSION=2/ },
    ]),
  );
});

async function withDead(work: (other: TestInstall, id: string) => Promise<void>, name = "dead"): Promise<void> {
  const other = await seededInstall(30, TIMES);
  await among([other.serve("lives", [1, 2], 2)], async () => {
    const long = new Date(Date.now() - 600_000);
    await work(other, await forge(other, "lives", { instance_name: name, updated_at: long }));
  });
}

test("a dead process keeps a rotation from starting until it is evicted by name", async () => {
  await withDead(async (other, id) => {
    const words = /silent: its last heartbeat was 10 min ago/;
    await expectUnready(other, [{ name: "dead", words, hint: new RegExp(`--evict=${id}`) }]);
    const rotated = await kek(other, "rotate", "--to-version=2", "--evict=dead");
    expect(rotated).toMatchObject({ code: 0, json: { state: "completed" } });
    expect(await evicted(other)).toEqual(["dead"]);
    await proveAll(other, [2], 30);
  });
});

test("--evict NAME means the same as --evict=NAME", async () => {
  await withDead(async (other) => {
    const rotated = await kek(other, "rotate", "--to-version=2", "--evict", "dead");
    expect(rotated).toMatchObject({ code: 0, json: { state: "completed" } });
    expect(await evicted(other)).toEqual(["dead"]);
  });
});

test("a name that nobody has, and a living process, are not evicted: a refused rotation, exit 3", async () => {
  await withDead(async (other) => {
    const seq = await lastSeq(other.db);
    for (const name of ["nobody", "lives"]) {
      const ran = await kek(other, "rotate", "--to-version=2", `--evict=${name}`);
      expectRefusal(ran, { exit: 3, code: "refused", error: new RegExp(name) }, true);
    }
    expect(await other.db.collection("process_heartbeats").distinct("instance_name")).toEqual(["dead", "lives"]);
    expect(await eventsAfter(other.db, seq)).toEqual(["rotation.refused", "rotation.refused"]);
  });
});

test("nobody is evicted before the question is answered", async () => {
  await withDead(async (other) => {
    const rotate = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--evict=dead"];
    const declined = await onTerminal(rotate, other.variables([1, 2], 2), [["Start? [y/N] ", "n\n"]]);
    expect(declined.code).toBe(5);
    expect(declined.shown).toMatch(/evict dead \(.*, then rotate from KEK version 1 to 2/);
    expect(declined.shown).toContain("nothing was changed");
    expect(await evicted(other)).toEqual([]);
    expect(await other.db.collection("process_heartbeats").distinct("instance_name")).toEqual(["dead", "lives"]);
    const confirmed = await onTerminal(rotate, other.variables([1, 2], 2), [["Start? [y/N] ", "y\n"]]);
    expect([confirmed.code, await evicted(other)]).toEqual([0, ["dead"]]);
  });
});

test("the same command resumes a rotation after its eviction: a note, no refusal", async () => {
  await withDead(async (other) => {
    const words = ["--to-version=2", "--evict=dead", "--evict=lives", "--max-rate=10", "--batch-size=2"];
    const refused = await kek(other, "rotate", ...words);
    expectRefusal(refused, { exit: 3, code: "refused", error: /lives/ }, true);
    const first = rotating(other, "--evict=dead", ...words.filter((word) => !word.startsWith("--evict")));
    await movedTo(other, 2, 4);
    expect([(await kek(other, "rotate", "--cancel")).code, (await first.exited).code]).toEqual([0, 5]);
    const resumed = await run(["kek", "rotate", ...words], other.variables([1, 2], 2));
    expect(resumed.code).toBe(0);
    expect(resumed.stderr).toMatch(/^--evict=dead: no process of that name .* leave --evict out$/m);
    expect(resumed.stderr).toMatch(/^--evict=lives: lives \(.* stays; .* leave --evict out$/m);
    expect(await evicted(other)).toEqual(["dead"]);
    await proveAll(other, [2], 30);
  });
});

test("two commands that evict the same process: who comes second finds it gone, and blames nobody", async () => {
  await withDead(async (other) => {
    const store = await openStore({ uri: other.uri, name: other.name }, { appName: "test" });
    const context = {
      store,
      auditor: { secret: "audit-secret-of-the-tests", actor: "test", sinks: [] },
      config: { fleet: TIMES },
    } as unknown as Context;
    const roster = await readRoster(store);
    const { silent } = namedEvictions(roster, ["dead"], TIMES);
    expect(await Promise.all([evictNamed(context, silent), evictNamed(context, silent)])).toEqual([
      undefined,
      undefined,
    ]);
    expect(await evicted(other)).toEqual(["dead"]);
    // One that has woken up since it was seen is named with its new age.
    const woken = roster.filter(({ instance_name }) => instance_name === "lives");
    expect((await evictNamed(context, woken))?.message).toMatch(/lives .* is not evicted: its last heartbeat was \d/);
    await closeStore(store);
  });
});

test("a dry run evicts nobody", async () => {
  await withDead(async (other) => {
    await kek(other, "rotate", "--to-version=2", "--evict=dead", "--dry-run");
    expect(await evicted(other)).toEqual([]);
    expect(await other.db.collection("process_heartbeats").distinct("instance_name")).toEqual(["dead", "lives"]);
  });
});

test("of two processes of one name, as after a crash and a restart, the dead one is evicted", async () => {
  await withDead(async (other) => {
    const rotated = await kek(other, "rotate", "--to-version=2", "--evict=lives");
    expect(rotated).toMatchObject({ code: 0, json: { state: "completed" } });
    expect(await evicted(other)).toEqual(["lives"]);
    expect(await other.db.collection("process_heartbeats").countDocuments()).toBe(1);
  }, "lives");
});

// A shell whose times are shorter than the fleet's would take a process for dead that may still encrypt.
const SLOW = { ...FAST, beatMs: 10_000, leaseMs: 30_000, evictionMs: 60_000 };
const HASTY = {
  CERTAUTOPILOT_FLEET_BEAT_MS: "20",
  CERTAUTOPILOT_FLEET_LEASE_MS: "2000",
  CERTAUTOPILOT_FLEET_EVICTION_MS: "2500",
};

test("--evict takes no process off whose own lease still runs, however short the times of the shell", async () => {
  const slow = await seededInstall(5, SLOW);
  await among([slow.serve("lives", [1, 2], 2)], async () => {
    await Bun.sleep(3000);
    const ran = await run(
      ["kek", "rotate", "--to-version=2", "--no-backup-check", "--evict=lives", "--json"],
      slow.variables([1, 2], 2, HASTY),
    );
    expectRefusal(ran, { exit: 3, code: "refused", error: /lives/ }, true);
    expect(await evicted(slow)).toEqual([]);
    expect(await slow.db.collection("kek_rotations").countDocuments()).toBe(0);
  });
});

test("a resumed rotation evicts no process whose own lease still runs, however short the times of the shell", async () => {
  const slow = await seededInstall(400, SLOW);
  await among([slow.serve("sleeps", [1, 2], 2)], async (sleeps) => {
    const first = rotating(slow, "--to-version=2", "--max-rate=20", "--batch-size=10");
    await movedTo(slow, 2, 20);
    expect([(await kek(slow, "rotate", "--cancel")).code, (await first.exited).code]).toEqual([0, 5]);
    sleeps?.kill("SIGSTOP");
    await Bun.sleep(3000);
    const hasty = await run(["kek", "rotate", "--to-version=2", "--no-backup-check"], slow.variables([1, 2], 2, HASTY));
    expect(await evicted(slow)).toEqual([]);
    // Refused at once, or waited for and named.
    expect([3, 7]).toContain(hasty.code as number);
    expect(hasty.stderr).toMatch(/(^|\n)error: [^\n]*sleeps [^\n]*\nhint: [^\n]+\n$/);
    sleeps?.kill("SIGCONT");
    expect((await kek(slow, "rotate", "--to-version=2")).code).toBe(0);
  });
});

test("a new line in the watched secrets file loads without a restart; an exposed file is warned of", async () => {
  const other = await testInstall();
  const secrets = join(directory, "secrets.env");
  writeFileSync(secrets, `${KEK}1=${other.keks[1]}\n${CURRENT}=1\n`, { mode: 0o600 });
  const over = { CERTAUTOPILOT_SECRETS_FILE: secrets, [CURRENT]: "" };
  const serving = await other.serve("watcher", [], 1, over);
  expect((await heartbeat(other, "watcher"))?.["loaded"]).toEqual([1]);
  appendFileSync(secrets, `${KEK}2=${other.keks[2]}\n`);
  await until("V2 is loaded", async () => (await heartbeat(other, "watcher"))?.["loaded"].includes(2));
  // Configuration tools write a new file and rename it over the old one.
  const fresh = `${KEK}1=${other.keks[1]}\n${KEK}2=${other.keks[2]}\n${KEK}3=${other.keks[3]}\n${CURRENT}=2\n`;
  writeFileSync(`${secrets}.new`, fresh, { mode: 0o600 });
  renameSync(`${secrets}.new`, secrets);
  const operator = other.variables([], undefined, over);
  await until(
    "it is ready for V2",
    async () => (await run(["kek", "verify", "--target=2", "--no-backup-check"], operator)).code === 0,
  );
  expect(await heartbeat(other, "watcher")).toMatchObject({ loaded: [1, 2, 3], current_version: 2, pid: serving.pid });
  chmodSync(secrets, 0o644);
  await serving.says(/warning: .*secrets\.env has mode 0644/);
  expect((await fetch(`${addressOf(serving)}/readyz`)).status).toBe(200);
  await stop(serving);
  expectSilentAbout(await serving.exited, Object.values(other.keks));
});

test("serve answers /healthz and /readyz, and leaves the roster on SIGTERM and SIGINT", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const serving = await install.serve("leaver", [1, 2], 2);
    const ask = async (path: string, init?: RequestInit) => await fetch(addressOf(serving) + path, init);
    expect(await (await ask("/healthz")).json()).toEqual({ ok: true });
    expect(await (await ask("/readyz")).json()).toEqual({ ready: true, write_version: 1 });
    expect((await ask("/readyz", { method: "POST" })).status).toBe(405);
    expect((await ask("/nothing")).status).toBe(404);
    expect(await heartbeat(install, "leaver")).toMatchObject({ pid: serving.pid, role: "api", acked: { phase: 0 } });
    serving.kill(signal);
    expect((await serving.exited).code).toBe(0);
    expect(await heartbeat(install, "leaver")).toBe(null);
  }
});

test("a second SIGTERM does not keep serve from leaving the roster", async () => {
  const serving = await install.serve("leaver", [1, 2], 2);
  serving.kill("SIGTERM");
  await serving.says("stopping: SIGTERM");
  serving.kill("SIGTERM");
  expect((await serving.exited).code).toBe(0);
  expect(await heartbeat(install, "leaver")).toBe(null);
});

test("a process with another audit secret than the install's says so at its start", async () => {
  const install = await testInstall();
  const right = await install.serve("right", [1], 1);
  const wrong = await install.serve("wrong", [1], 1, { CERTAUTOPILOT_AUDIT_SECRET: "another-secret-altogether" });
  expect(wrong.stderr).toContain("is not what the audit log's last entry was written with");
  expect(right.stderr).not.toContain("AUDIT_SECRET");
  await stop(right, wrong);
});
