import { beforeAll, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { type Armed, inLanes, type Step } from "../harness/crash.ts";
import { crashInstall, mirrored, payloadsOf, settledAt, takeAll, validatorsOf } from "../harness/crash_install.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** `kek rotate` is killed between any two of its writes, and its recovery once more: the same command completes. */

const SCRATCH = scratchDirectory();
const ROTATE = ["kek", "rotate", "--to-version=2", "--batch-size=2", "--concurrency=1", "--json"];

/** Where it dies, and where the same command then dies again. */
const TWICE: [Armed, Armed, ...string[]][] = [
  ["rotation.inserted", "rotation.inserted"],
  ["rotation.acquired", "lease.taken_over"],
  ["lease.renewed", "lease.renewed", "--max-rate=5"],
  ["phase.written", "phase.written"],
  ["phase.written:2", "phase.written"],
  ["phase.advanced", "phase.advanced"],
  ["phase.advanced:2", "complete.closed"],
  ["wraps.reserved", "wraps.reserved"],
  ["batch.wrapped", "batch.wrapped"],
  ["batch.written:2", "batch.written"],
  ["progress.saved", "progress.saved"],
  ["fence.recording", "fence.recording"],
  ["fence.recorded", "fence.recorded"],
  ["fence.collection", "fence.recording"],
  ["fence.collection:2", "census.again"],
  ["census.again", "audit.appended:3"],
  ["complete.closed", "complete.retired"],
  ["complete.retired", "audit.appended:3"],
  ["audit.appended", "audit.appended"],
  ["audit.appended:7", "audit.committed"],
  ["audit.committed", "audit.committed"],
  ["audit.mirrored:2", "audit.mirrored"],
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

test("killed at any point, killed again in its recovery: the same command completes", async () => {
  const cases = TWICE.map(([at, again, ...flags]): [string, Step[]] => {
    const words = [...ROTATE, ...flags];
    return [`${at}, ${again}`, [{ words, dies: at }, { words, dies: again }, { words }]];
  });
  expect(await inLanes(Object.fromEntries(cases), schedule)).toEqual({});
});

test("killed when it was complete: the same command has nothing left to do", async () => {
  const cases = DONE.map(([at, again]): [string, Step[]] => {
    const refused = { words: ROTATE, exits: 3 };
    return [`${at}, ${again}`, [{ words: ROTATE, dies: at }, { words: ROTATE, dies: again }, refused]];
  });
  expect(await inLanes(Object.fromEntries(cases), schedule)).toEqual({});
});
