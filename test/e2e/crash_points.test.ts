import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CRASH_POINTS } from "../../src/errors/crash_point.ts";
import { type Armed, inLanes, type Step } from "../harness/crash.ts";
import { crashInstall, mirrored, payloadsOf, settledAt, takeAll, validatorsOf } from "../harness/crash_install.ts";
import { BINARY, CRASH_BINARY, run } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** `kek rotate` is killed between any two of its writes, and its recovery once more: the same command completes. */

/** Most of it is waiting for leases and for transactions of the dead; a busy machine adds to that. */
setDefaultTimeout(600_000);

const SCRATCH = scratchDirectory();
const ROTATE = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--batch-size=2", "--concurrency=1", "--json"];

/** Where it dies, and where the same command then dies again; up to the last batch. */
const UNTIL_ZERO: [Armed, Armed][] = [
  ["rotation.inserted", "rotation.acquired"],
  ["rotation.acquired", "lease.taken_over"],
  ["lease.renewed", "lease.renewed"],
  ["phase.written", "phase.advanced"],
  ["phase.written:2", "phase.advanced"],
  ["wraps.reserved", "batch.wrapped"],
  ["batch.written:2", "progress.saved"],
];

/** The same, from the fence to the end, and around any of its audit events. */
const TO_THE_END: [Armed, Armed][] = [
  ["fence.recording", "fence.recorded"],
  ["fence.recorded", "fence.recording"],
  ["fence.validator_set", "fence.recording"],
  ["fence.validator_set:2", "count.again"],
  ["complete.closed", "complete.retired"],
  ["audit.appended", "audit.committed"],
  ["audit.appended:7", "audit.mirrored"],
  ["audit.mirrored:2", "audit.appended:3"],
];

/** Complete before it died: the same command says so, and dies while it notes the refusal. */
const DONE: [Armed, Armed][] = [
  ["complete.done", "audit.appended"],
  ["lease.released", "audit.committed"],
];

let fenced = "";

beforeAll(async () => {
  const undisturbed = await crashInstall();
  await takeAll(undisturbed, [{ words: ROTATE }]);
  fenced = await validatorsOf(undisturbed);
  await undisturbed.member.close();
});

async function schedule(steps: Step[]): Promise<void> {
  const file = join(SCRATCH, randomUUID());
  const install = await crashInstall(() => ({ CERTAUTOPILOT_AUDIT_FILE: file }));
  const payloads = await payloadsOf(install);
  await takeAll(install, steps);
  expect(await validatorsOf(install)).toBe(fenced);
  await settledAt(install, 2, payloads);
  await mirrored(install, file);
  await install.member.close();
}

function inTurn(pairs: [Armed, Armed][], last: Step): Record<string, Step[]> {
  const steps = ([at, again]: [Armed, Armed]) => [{ words: ROTATE, dies: at }, { words: ROTATE, dies: again }, last];
  return Object.fromEntries(pairs.map((pair) => [pair.join(", "), steps(pair)]));
}

test("killed before the last record is moved, and again in the recovery: the same command completes", async () => {
  expect(await inLanes(inTurn(UNTIL_ZERO, { words: ROTATE }), schedule)).toEqual({});
});

test("killed at the fence and after it, and again in the recovery: the same command completes", async () => {
  expect(await inLanes(inTurn(TO_THE_END, { words: ROTATE }), schedule)).toEqual({});
});

test("killed when it was complete: the same command has nothing left to do", async () => {
  expect(await inLanes(inTurn(DONE, { words: ROTATE, exits: 3 }), schedule)).toEqual({});
});

test("a release holds no crash point, and the variable means nothing to it", async () => {
  const [release, crash] = [readFileSync(BINARY), readFileSync(CRASH_BINARY)];
  const texts = [...CRASH_POINTS, "CERTAUTOPILOT_TEST_", "TEST_CRASH_AT"];
  // In both encodings that a program's strings can have.
  const inside = (program: Buffer) =>
    texts.filter((text) => program.includes(text, 0, "latin1") || program.includes(text, 0, "utf16le"));
  expect(inside(release)).toEqual([]);
  expect(inside(crash)).toEqual(texts);
  const ran = await run(["--version"], { CERTAUTOPILOT_TEST_CRASH_AT: "no.such" });
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
});

test("the build with crash points warns of one that is armed, and refuses another name", async () => {
  const asked = (point: string) => run(["kek", "status"], { CERTAUTOPILOT_TEST_CRASH_AT: point }, "crash");
  const [armed, unknown] = await Promise.all([asked("phase.written"), asked("no.such")]);
  expect(armed.stderr).toContain("warning: CERTAUTOPILOT_TEST_CRASH_AT kills this process at phase.written\n");
  expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringContaining("no.such is no crash point")]);
});
