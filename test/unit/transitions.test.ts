import { expect, test } from "bun:test";
import {
  cancelEnds,
  firstPhase,
  LAST_PHASE,
  LIVING,
  NOT_CANCELLABLE_FROM,
  phaseBefore,
  REVERSIBLE_PHASE,
  statesToStart,
  switchesActiveVersion,
} from "../../src/protocol/transitions.ts";

/** Which changes of a rotation are legal. */

test("a rotation starts in phase 1, a repair in phase 2", () => {
  expect([firstPhase(false), firstPhase(true)]).toEqual([1, 2]);
});

test("a version with key material can be rotated to", () => {
  expect([...LIVING]).toEqual(["staged", "active", "retired"]);
});

test("a rotation starts only from and to versions in these states", () => {
  const living = ["staged", "active", "retired"];
  const table = [
    { repairs: false, replaces: false, from: ["active"], to: living },
    { repairs: false, replaces: true, from: living, to: living },
    { repairs: true, replaces: false, from: ["retired"], to: ["active"] },
    { repairs: true, replaces: true, from: ["retired"], to: ["active"] },
  ];
  for (const { repairs, replaces, from, to } of table) {
    const states: unknown = statesToStart({ repairs, replaces });
    expect(states).toEqual({ from, to });
  }
});

test("no phase is skipped, and each limit is at its own phase", () => {
  expect([phaseBefore(2), phaseBefore(3)]).toEqual([1, 2]);
  expect([REVERSIBLE_PHASE, LAST_PHASE, NOT_CANCELLABLE_FROM]).toEqual([2, 3, 3]);
});

test("a repair leaves every version in its state", () => {
  expect([switchesActiveVersion({}), switchesActiveVersion({ repairs: true })]).toEqual([true, false]);
});

test("a cancel ends a rotation in phase 1, and a repair in any phase", () => {
  expect([cancelEnds({ phase: 1 }), cancelEnds({ phase: 2 }), cancelEnds({ phase: 3 })]).toEqual([true, false, false]);
  expect(cancelEnds({ phase: 2, repairs: true })).toBe(true);
});
