import { expect, test } from "bun:test";
import { ChangeTimer } from "../../src/rotation/change_timer.ts";

test("a value that stays counts from when it was first seen, and one that changes begins again", () => {
  const unchanged = new ChangeTimer(1000);
  unchanged.look([["a", 1]], 5000);
  expect(unchanged.ms("a")).toBe(0);
  unchanged.look(
    [
      ["a", 1],
      ["b", 7],
    ],
    5400,
  );
  expect([unchanged.ms("a"), unchanged.ms("b"), unchanged.ms("c")]).toEqual([400, 0, 0]);
  unchanged.look(
    [
      ["a", 2],
      ["b", 7],
    ],
    5900,
  );
  expect([unchanged.ms("a"), unchanged.ms("b")]).toEqual([0, 500]);
});

test("what was missing in between begins again", () => {
  const unchanged = new ChangeTimer(1000);
  unchanged.look([["a", 1]], 0);
  unchanged.look([["a", 1]], 500);
  unchanged.look([], 600);
  unchanged.look([["a", 1]], 700);
  expect(unchanged.ms("a")).toBe(0);
});

test("a long time between two looks, as of a suspended machine or a MongoDB that did not answer, counts as one step", () => {
  const unchanged = new ChangeTimer(1000);
  unchanged.look([["a", 1]], 0);
  unchanged.look([["a", 1]], 3_600_000);
  expect(unchanged.ms("a")).toBe(1000);
});
