import { expect, test } from "bun:test";
import { stripVTControlCharacters } from "node:util";
import { statusLine } from "../../src/cli/status_text.ts";
import type { StatusView } from "../../src/status/status_view.ts";
import { library, seed } from "../harness/library.ts";
import { run, start, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { movedTo, rotating } from "../harness/schedule.ts";
import { onTerminal } from "../harness/terminal.ts";
import { TcpProxy } from "../torture/tcp_proxy.ts";

/** `kek status` through a rotation: as text, as JSON, live on a terminal, and while MongoDB is unavailable. */

const TIMES = { beatMs: 300, leaseMs: 20_000, evictionMs: 41_000, drainMs: 300 };
const RECORDS = 400;
const SLOWLY = ["--max-rate=15", "--batch-size=5"];

async function seeded(records: number): Promise<TestInstall> {
  const install = await testInstall(TIMES);
  const seeder = await library(install, [1, 2], 1, "seeder", TIMES);
  await seed(seeder, install, records);
  await seeder.close();
  return install;
}

/** What a person and what a program are told. */
async function status(install: TestInstall): Promise<{ text: string; view: StatusView }> {
  const ask = (...flags: string[]) => run(["kek", "status", ...flags], install.variables([], undefined));
  const [told, asked] = await Promise.all([ask(), ask("--json")]);
  expect([told.code, asked.code, told.stderr]).toEqual([0, 0, ""]);
  return { text: told.stdout, view: asked.json };
}

test("before, in each state of a rotation, and after: text and JSON agree, and a display follows live", async () => {
  const install = await seeded(RECORDS);
  const [a, b] = await Promise.all([install.serve("a", [1, 2], 2), install.serve("b", [1, 2], 2)]);
  // What lasts for less than a second may pass between two looks on a busy machine: it is stopped by what stays.
  const watch = onTerminal(["kek", "status", "--watch"], install.variables([]), [
    ["serve and write under KEK version 2", "\x03"],
  ]);

  const before = await status(install);
  expect(before.view).toMatchObject({
    health: {
      level: "action_due",
      findings: [{ message: expect.stringMatching(/^2 of 2 processes declare KEK version 2/) }],
    },
    phase: 0,
    rotation: null,
    versions: [
      { version: 1, state: "active", records: RECORDS, canary: { verified_by: 2, of: 2 }, overdue: false },
      { version: 2, state: "staged", records: 0, canary: { verified_by: 2, of: 2 } },
    ],
    processes: [{ acknowledged: null, silent: false }, { acknowledged: null }],
    audit: { chain: { state: "whole" } },
  });
  expect(before.text).toStartWith(`${before.view.health.headline}\nwarning: 2 of 2 processes declare`);
  expect(before.text).toMatch(/^1 \* +active +400 +\d+ \(0%\) +2\/2 +\d{4}-\d\d-\d\d +\d{4}-\d\d-\d\d$/m);
  expect(before.text).toContain(`install ${before.view.install.install_id}: provider "env"`);

  const first = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 20);
  // A bar of twenty squares has its first one after a twentieth.
  const told = async () => (await status(install)).view.rotation;
  await until("its pace is saved", async () => (await told())?.pace.length !== 0);
  await until("a tenth is told of", async () => Number((await told())?.fields[0]?.done) >= RECORDS / 10);
  const during = await status(install);
  expect(during.view.health).toMatchObject({
    level: "in_progress",
    headline: expect.stringContaining("% of the records moved"),
  });
  expect(during.view.rotation).toMatchObject({
    phase: 2,
    led: true,
    awaited: [],
    acknowledged: expect.arrayContaining([expect.stringMatching(/^a \(api/), expect.stringMatching(/^b \(api/)]),
    fields: [{ field: "secrets:value" }],
    next_steps: [{ does: "stop", command: "certautopilot kek rotate --cancel" }],
  });
  expect(during.view.rotation?.rate).toBeGreaterThan(0);
  expect(during.view.rotation?.eta_ms).toBeGreaterThan(0);
  expect(during.text).toMatch(/^ {2}acknowledged +2 of 2 processes$/m);
  expect(during.text).toMatch(/^ {2}secrets:value +\d+ +\d+ +0 +█+░* \d+%$/m);
  expect(during.text).toMatch(/^ {2}pace +\d+ records\/s.*left/m);

  expect((await run(["kek", "rotate", "--cancel"], install.variables([1, 2], 2))).code).toBe(0);
  expect((await first.exited).code).toBe(5);
  const cancelled = await status(install);
  const left = cancelled.view.versions[0]?.records;
  expect(cancelled.view.health).toMatchObject({
    level: "action_due",
    headline: `Rotation 1 → 2 is cancelled half way: ${left} records are still at version 1`,
  });
  expect(cancelled.text).toMatch(/^ {2}go on +certautopilot kek rotate --to-version=2$/m);
  expect(cancelled.text).toMatch(/^ {2}back +certautopilot kek rotate --to-version=1 --from-version=2$/m);

  // It continues in phase 2, and one process does not follow.
  b.kill("SIGSTOP");
  const again = rotating(install, "--to-version=2");
  await again.says(/phase 2: waiting for 1: b \(/);
  const waiting = await status(install);
  expect(waiting.view.rotation).toMatchObject({ phase: 2, awaited: [expect.stringMatching(/^b \(api/)] });
  expect(waiting.view.health).toMatchObject({
    level: "in_progress",
    headline: expect.stringContaining("and waits for b (api"),
  });
  expect(waiting.text).toMatch(/^ {2}waits for +b \(api, .*\): last heartbeat .* ago$/m);
  expect(waiting.text).toMatch(/^b +api .* awaited/m);
  b.kill("SIGCONT");

  expect((await again.exited).code).toBe(0);
  const after = await status(install);
  expect(after.view).toMatchObject({
    health: { level: "ok", headline: "Healthy: 2 processes serve and write under KEK version 2", findings: [] },
    rotation: null,
    history: [{ rotation: 1, state: "completed", done: RECORDS, remaining: 0, awaited: [], next_steps: [] }],
    version_counts: [{ field: "secrets:value", version: "2", count: RECORDS }],
  });
  expect(after.text).toMatch(/^1 +1 → 2 +completed +\S+Z +\d.* s +400 /m);
  expect(after.text).toMatch(/^\d+ +\S+ +rotation\.completed /m);
  expect(after.text).not.toContain("\x1b");

  const shown = await watch;
  expect({ code: shown.code, typed: shown.typed }).toEqual({ code: 0, typed: true });
  expect(shown.shown).toContain("\x1b[32mHealthy");
  expect(shown.shown).toContain("phase 2 of 3 (re-wrap)");
  const [display, rest] = shown.shown.split("\x1b[?25h\x1b[?1049l");
  expect(display).toContain("\x1b[?1049h\x1b[?25l");
  // On the terminal as it was before stands one line, of what was seen last.
  expect(rest?.trim()).toMatch(/^\S+Z ok: Healthy: 2 processes serve and write under KEK version 2$/);
  for (const frame of display?.split("\x1b[H").slice(1) ?? []) {
    // The terminal itself echoes the Ctrl-C.
    const lines = stripVTControlCharacters(frame).replace("^C", "").split(/\r*\n/);
    expect(lines.length).toBeLessThanOrEqual(24);
    for (const line of lines) expect(line.length).toBeLessThan(80);
  }
  await stop(a, b);
});

test("away and back: it says so, keeps what it saw last, and continues; a pipe gets a line for what is new", async () => {
  const install = await seeded(1);
  const port = Number(new URL(install.uri).port);
  const proxy = await TcpProxy.open(() => port);
  const uri = `mongodb://127.0.0.1:${proxy.port}/?directConnection=true&serverSelectionTimeoutMS=5000`;
  const variables = install.variables([], undefined, { CERTAUTOPILOT_DATABASE_URI: uri });
  const lines = start(["kek", "status", "--watch"], variables);
  const documents = start(["kek", "status", "--watch", "--json"], variables);
  const seen = (count: number) => async () =>
    lines.stdout.split("\n").length > count && documents.stdout.split("\n").length > count;
  await until("both have looked", seen(1));
  const screen = onTerminal(
    ["kek", "status", "--watch"],
    { ...variables, NO_COLOR: "1" },
    [
      ["no process is in the fleet", ""],
      ["MongoDB is unavailable", "\x03"],
    ],
    "120x60",
  );
  await Bun.sleep(6000);
  proxy.cut();
  await Promise.all([lines.says("MongoDB is unavailable"), documents.says("MongoDB is unavailable")]);
  const shown = await screen;
  expect({ code: shown.code, typed: shown.typed }).toEqual({ code: 0, typed: true });
  expect(shown.shown).toMatch(/MongoDB is unavailable \(.*\); below is how it was .* ago/);
  for (const colour of [31, 32, 33]) expect(shown.shown).not.toContain(`\x1b[${colour}m`);
  // Nothing was new but that.
  expect(lines.stdout.trim().split("\n")).toHaveLength(1);

  proxy.heal();
  await lines.says("MongoDB is back");
  const served = await install.serve("late", [1, 2], 1);
  await until("there is something new", seen(2));
  for (const running of [lines, documents]) running.kill("SIGINT");
  const [told, asked] = await Promise.all([lines.exited, documents.exited]);
  expect([told.code, asked.code]).toEqual([0, 0]);
  expect(told.stdout.split("\n")[0]).toMatch(/^\S+Z problem: 1 thing needs attention: no process is in the fleet$/);
  const views = asked.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as StatusView);
  expect(views[0]).toMatchObject({ health: { level: "problem" }, processes: [] });
  expect(views.at(-1)).toMatchObject({ processes: [{ name: "late" }] });
  for (const view of views) expect(statusLine(view)).toContain(view.health.headline);
  await stop(served);
  proxy.close();
});
