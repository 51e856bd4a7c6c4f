import { expect, test } from "bun:test";
import type { Phase, RotationDoc, RotationState, VersionState } from "../../src/protocol/documents.ts";
import { contradiction } from "../../src/protocol/state_contradictions.ts";

/** Versions and rotations that cannot be together. */

/** The states of versions 1, 2, 3, … */
const versions = (...states: VersionState[]) => states.map((state, index) => ({ _id: index + 1, state }));
const rotation = (state: RotationState, phase: Phase, over: Partial<RotationDoc> = {}) => ({
  _id: 5,
  from: 1,
  to: 2,
  phase,
  state,
  ...over,
});
const REPAIRS = { repairs: true } as const;

test("at most one version is active, and one is once any was used", () => {
  expect(contradiction([], undefined)).toBeUndefined();
  expect(contradiction(versions("staged", "staged"), undefined)).toBeUndefined();
  expect(contradiction(versions("active", "staged"), undefined)).toBeUndefined();
  expect(contradiction(versions("retired", "active"), undefined)).toBeUndefined();
  expect(contradiction(versions("active", "retired", "active"), undefined)).toBe(
    "versions 1 and 3 are active, and at most one may be",
  );
  expect(contradiction(versions("staged", "retired"), undefined)).toBe(
    "no version is active, and version 2 is retired",
  );
  expect(contradiction(versions("destroyed"), undefined)).toBe("no version is active, and version 1 is destroyed");
});

test("an open rotation has both of its versions, and one of them is active", () => {
  for (const open of [rotation("running", 1), rotation("running", 3), rotation("cancelled", 2)]) {
    const which = `rotation 5 of kek_rotations (1 → 2, ${open.state}) is open, and`;
    const found = (...states: VersionState[]) => contradiction(versions(...states), open);
    expect(found("active", "staged")).toBeUndefined();
    expect(found("retired", "active")).toBeUndefined();
    expect(found("active")).toBe(`${which} there is no version 2`);
    expect(contradiction([{ _id: 2, state: "active" }], open)).toBe(`${which} there is no version 1`);
    expect(found("active", "destroyed")).toBe(`${which} version 2 is destroyed`);
    expect(found("destroyed", "active")).toBe(`${which} version 1 is destroyed`);
    expect(found("retired", "staged", "active")).toBe(`${which} version 3 is active`);
    expect(found("staged", "staged")).toBe(`${which} version none is active`);
  }
});

test("a rotation that has ended left the right version active", () => {
  const ended = (state: RotationState, active: number, over: Partial<RotationDoc> = {}) =>
    contradiction([{ _id: active, state: "active" }], rotation(state, state === "cancelled" ? 1 : 3, over));
  expect(ended("completed", 2)).toBeUndefined();
  expect(ended("cancelled", 1)).toBeUndefined();
  expect(ended("completed", 2, REPAIRS)).toBeUndefined();
  expect(ended("cancelled", 2, REPAIRS)).toBeUndefined();
  const which = (state: RotationState) => `rotation 5 of kek_rotations (1 → 2, ${state}) has ended, and`;
  expect(ended("completed", 1)).toBe(`${which("completed")} version 1 is active`);
  expect(ended("cancelled", 2)).toBe(`${which("cancelled")} version 2 is active`);
  expect(ended("completed", 1, REPAIRS)).toBe(`${which("completed")} version 1 is active`);
  expect(ended("cancelled", 1, REPAIRS)).toBe(`${which("cancelled")} version 1 is active`);
  expect(contradiction(versions("staged"), rotation("completed", 3))).toBe(
    `${which("completed")} version none is active`,
  );
});

test("a reverted rotation is never the newest one", () => {
  expect(contradiction(versions("active", "staged"), rotation("reverted", 2))).toBe(
    "rotation 5 of kek_rotations (1 → 2, reverted) is the newest one, and the rotation that reverted it is gone",
  );
});
