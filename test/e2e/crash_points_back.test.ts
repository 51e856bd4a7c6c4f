import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { inLanes, type Step, startArmed } from "../harness/crash.ts";
import {
  type CrashInstall,
  crashInstall,
  payloadsOf,
  settledAt,
  takeAll,
  validatorsOf,
} from "../harness/crash_install.ts";

/** The ways back, killed between any two of their writes: the fence lifted, cancel, reverse; and an eviction. */

/** Most of it is waiting for leases and for transactions of the dead; a busy machine adds to that. */
setDefaultTimeout(600_000);

const THERE = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--batch-size=2", "--concurrency=1", "--json"];
const BACK = ["kek", "rotate", "--to-version=1", "--from-version=2", "--batch-size=2", "--concurrency=1", "--json"];
const CANCEL = ["kek", "rotate", "--cancel", "--json"];
const NOTHING_TO_CANCEL = 3;

/** Complete at version 2, and back. The first times that a fence is recorded and set, it is lifted. */
const LIFTED: Record<string, Step[]> = {
  "while the lifting is recorded, and once it is": [
    { words: THERE },
    { words: BACK, dies: "fence.recording" },
    { words: BACK, dies: "fence.recorded" },
    { words: BACK },
  ],
  "between two collections, and before the next phase": [
    { words: THERE },
    { words: BACK, dies: "fence.validator_set" },
    { words: BACK, dies: "phase.written" },
    { words: BACK },
  ],
};

/** Cancelled in phase 2, with the fence up, and back. */
const CANCELLED: Record<string, Step[]> = {
  "while it is written, and before the fence is lifted": [
    { words: THERE, dies: "count.again" },
    { words: CANCEL, dies: "cancel.written" },
    { words: CANCEL, dies: "cancel.done" },
    { words: CANCEL, exits: NOTHING_TO_CANCEL },
    { words: BACK, dies: "reverse.closed" },
    { words: BACK },
  ],
  "with the lifting recorded and nothing lifted": [
    { words: THERE, dies: "count.again" },
    { words: CANCEL, dies: "fence.recorded" },
    { words: BACK, dies: "rotation.inserted" },
    { words: BACK },
  ],
  "with the fence lifted from one collection of two": [
    { words: THERE, dies: "count.again" },
    { words: CANCEL, dies: "fence.validator_set" },
    { words: BACK, dies: "rotation.acquired" },
    { words: BACK, dies: "batch.written" },
    { words: BACK },
  ],
};

/** And on to version 2 after all. */
const ON_AFTER_ALL: Record<string, Step[]> = {
  "cancelled with the fence lifted from one collection of two": [
    { words: THERE, dies: "count.again" },
    { words: CANCEL, dies: "fence.validator_set" },
    { words: THERE, dies: "fence.validator_set" },
    { words: THERE },
  ],
  "a reverse rotation cancelled in its first phase, while the rotation it came from opens again": [
    { words: THERE, dies: "batch.written:2" },
    { words: BACK, dies: "rotation.acquired" },
    { words: CANCEL, dies: "cancel.reopened" },
    { words: CANCEL, dies: "cancel.done" },
    { words: THERE, dies: "batch.written" },
    { words: THERE },
  ],
};

const fenced = new Map<number, string>();

beforeAll(async () => {
  const undisturbed = await crashInstall();
  await takeAll(undisturbed, [{ words: THERE }]);
  fenced.set(2, await validatorsOf(undisturbed));
  await takeAll(undisturbed, [{ words: BACK }]);
  fenced.set(1, await validatorsOf(undisturbed));
  await undisturbed.member.close();
});

/** @param first what is done before the steps are taken. */
function ending(version: number, first?: (install: CrashInstall) => Promise<void>): (steps: Step[]) => Promise<void> {
  return async (steps) => {
    const install = await crashInstall();
    const payloads = await payloadsOf(install);
    await first?.(install);
    await takeAll(install, steps);
    expect(await validatorsOf(install)).toBe(fenced.get(version) as string);
    await settledAt(install, version, payloads);
    await install.member.close();
  };
}

test("killed while the fence is lifted for a reverse rotation", async () => {
  expect(await inLanes(LIFTED, ending(1))).toEqual({});
});

test("cancel killed, and then the reverse rotation", async () => {
  expect(await inLanes(CANCELLED, ending(1))).toEqual({});
});

test("cancel killed, and then the way on", async () => {
  expect(await inLanes(ON_AFTER_ALL, ending(2))).toEqual({});
});

test("killed while it evicts a silent process", async () => {
  const loseOne = async (install: CrashInstall) => {
    const lost = await install.serve("lost", [1, 2], 2);
    const rotate = startArmed(THERE, install.operator, "member.evicted");
    await rotate.says("phase 1: ");
    lost.kill("SIGKILL");
    expect((await rotate.exited).signal).toBe("SIGKILL");
  };
  const steps: Step[] = [{ words: THERE, dies: "member.evicted" }, { words: THERE }];
  expect(await inLanes({ evicted: steps }, ending(2, loseOne))).toEqual({});
});
