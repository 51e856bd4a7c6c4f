import { expect, test } from "bun:test";
import type { Phase, RotationState } from "../../src/protocol/documents.ts";
import { isOpen, PHASE_NAMES } from "../../src/protocol/phases.ts";

/** Members follow a rotation while it is open. */

const STATES: RotationState[] = ["running", "cancelled", "completed", "reverted"];
const PHASES: Phase[] = [1, 2, 3];

function open(repairs: true | undefined): string[] {
  const all = STATES.flatMap((state) => PHASES.map((phase) => ({ state, phase, repairs })));
  return all.filter(isOpen).map(({ state, phase }) => `${state} ${phase}`);
}

test("a rotation is open while it runs, and when it was cancelled in phase 2", () => {
  expect(open(undefined)).toEqual(["running 1", "running 2", "running 3", "cancelled 2"]);
});

test("a repair is open only while it runs", () => {
  expect(open(true)).toEqual(["running 1", "running 2", "running 3"]);
});

test("each phase has its name", () => {
  expect(PHASE_NAMES).toEqual({ 1: "announce", 2: "re-wrap", 3: "settle" });
});
