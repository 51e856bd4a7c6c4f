import { expect, test } from "bun:test";
import { withoutWriteFence, writeFenceClause, writeFenceDrifted } from "../../src/protocol/write_fence.ts";

/** Whether a live validator still has the write fence that was recorded, and what a validator is without it. */

const CLAUSE = writeFenceClause(["a.b"], [1]);
const OTHER = writeFenceClause(["a.b"], [2]);
const OWN = { x: { $exists: true } };
const STRICT = { validationLevel: "strict", validationAction: "error" };

test("a live validator with the recorded clause has not drifted, whatever the collection's own rules are", () => {
  const expected = { validator: CLAUSE, ...STRICT };
  expect(writeFenceDrifted(expected, expected)).toBe(false);
  expect(writeFenceDrifted({ validator: CLAUSE }, expected)).toBe(false);
  expect(writeFenceDrifted({ validator: { $and: [OWN, CLAUSE] } }, expected)).toBe(false);
});

test("a clause that is missing, has other versions or is not enforced has drifted", () => {
  const expected = { validator: CLAUSE, ...STRICT };
  expect(writeFenceDrifted({}, expected)).toBe(true);
  expect(writeFenceDrifted({ validator: OWN }, expected)).toBe(true);
  expect(writeFenceDrifted({ validator: OTHER, ...STRICT }, expected)).toBe(true);
  expect(writeFenceDrifted({ validator: CLAUSE, validationLevel: "moderate" }, expected)).toBe(true);
  expect(writeFenceDrifted({ validator: CLAUSE, validationAction: "warn" }, expected)).toBe(true);
});

test("where no clause is expected, only a clause has drifted", () => {
  expect(writeFenceDrifted({}, { validator: OWN })).toBe(false);
  expect(writeFenceDrifted({ validator: OWN, validationAction: "warn" }, {})).toBe(false);
  expect(writeFenceDrifted({ validator: CLAUSE }, { validator: OWN })).toBe(true);
});

test("a validator without our clause is left as it is", () => {
  const validators = [OWN, { $and: [OWN] }, { $and: [OWN, { y: 1 }] }, { $and: "no array" }, {}];
  for (const validator of validators) expect(withoutWriteFence(validator)).toBe(validator);
  expect(withoutWriteFence(undefined)).toBeUndefined();
});

test("a validator is given back without our clause", () => {
  expect(withoutWriteFence(CLAUSE)).toBeUndefined();
  expect(withoutWriteFence({ $and: [OWN, CLAUSE] })).toBe(OWN);
  expect(withoutWriteFence({ $and: [OWN, CLAUSE, { y: 1 }] })).toEqual({ $and: [OWN, { y: 1 }] });
});

test("rules that the operator put beside our clause stay, and no empty list is left", () => {
  const beside = { y: 1 };
  expect(withoutWriteFence({ $and: [OWN, CLAUSE], ...beside })).toEqual({ $and: [OWN], ...beside });
  expect(withoutWriteFence({ $and: [CLAUSE], ...beside })).toEqual(beside);
  expect(withoutWriteFence({ $and: [CLAUSE] })).toBeUndefined();
  expect(withoutWriteFence({ ...CLAUSE, ...beside })).toEqual(beside);
});
