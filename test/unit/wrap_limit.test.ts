import { expect, test } from "bun:test";
import {
  MAX_WRAPS,
  wrapProblems,
  wrapsLeft,
  wrapsPercent,
  wrapWarnings,
  writable,
} from "../../src/protocol/wrap_limit.ts";
import { rotation, version } from "../harness/facts.ts";

/** One key makes at most 2^32 wraps. */

const LIMIT = 4_294_967_296;
const HALF = 2_147_483_648;

test("the wraps that are left, and the percentage that was used", () => {
  expect(MAX_WRAPS).toBe(LIMIT);
  expect([0, 1, LIMIT - 1, LIMIT, LIMIT + 5].map((wraps) => wrapsLeft({ wraps }))).toEqual([LIMIT, LIMIT - 1, 1, 0, 0]);
  expect([0, HALF, LIMIT - 1, LIMIT].map((wraps) => wrapsPercent({ wraps }))).toEqual([0, 50, 99.99, 100]);
});

test("a version has a warning from half of the limit, and a problem at it", () => {
  const found = (wraps: number) => {
    const versions = [version(1, "active", { wraps })];
    return [wrapWarnings(versions).length, wrapProblems(versions).length];
  };
  expect(found(HALF - 1)).toEqual([0, 0]);
  expect(found(HALF)).toEqual([1, 0]);
  expect(found(LIMIT - 1)).toEqual([1, 0]);
  expect(found(LIMIT)).toEqual([0, 1]);
  expect(found(LIMIT + 1)).toEqual([0, 1]);
});

test("new wraps are made under active and staged versions, and under those of an open rotation", () => {
  const versions = [
    version(1, "retired"),
    version(2, "active"),
    version(3, "staged"),
    version(4, "destroyed"),
    version(5, "retired"),
  ];
  const ids = (doc?: Parameters<typeof writable>[1]) => writable(versions, doc).map(({ _id }) => _id);
  expect(ids()).toEqual([2, 3]);
  expect(ids(rotation(2, { from: 2, to: 1 }))).toEqual([1, 2, 3]);
  expect(ids(rotation(2, { from: 5, to: 2 }))).toEqual([2, 3, 5]);
  expect(ids(rotation(3, { from: 1, to: 2, state: "completed" }))).toEqual([2, 3]);
});
