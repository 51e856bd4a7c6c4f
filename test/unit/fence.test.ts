import { describe, expect, test } from "bun:test";
import { Int32 } from "bson";
import fc from "fast-check";
import { fenceClause, fences, mergeFence, stripFence } from "../../src/fleet/fence.ts";
import { freezeOptions, sameOptions, thawOptions } from "../../src/store/validators.ts";

const CLAUSE = fenceClause(["a.b", "c"], [1, 2]);
const OWN = { $jsonSchema: { required: ["x"] } };

describe("the fence", () => {
  test("rejects the left versions at every path, strictly", () => {
    const merged = mergeFence({}, CLAUSE, 0);
    expect(merged).toMatchObject({ validationLevel: "strict", validationAction: "error" });
    expect(fences(merged, ["a.b", "c"], 1)).toBe(true);
    expect(fences(merged, ["a.b"], 2)).toBe(true);
    expect(fences(merged, ["a.b"], 3)).toBe(false);
    expect(fences(merged, ["a.b", "d"], 1)).toBe(false);
    expect(fences({ ...merged, validationAction: "warn" }, ["c"], 1)).toBe(false);
    expect(fences({ ...merged, validationLevel: "moderate" }, ["c"], 1)).toBe(false);
    expect(fences(undefined, ["c"], 1)).toBe(false);
    expect(fences({ validator: OWN }, ["c"], 1)).toBe(false);
  });

  test("is merged with a collection's own rules and taken out again", () => {
    const merged = mergeFence({ validator: OWN, validationLevel: "strict" }, CLAUSE, 0);
    expect(merged?.validator).toEqual({ $and: [OWN, CLAUSE] });
    expect(fences(merged, ["c"], 1)).toBe(true);
    expect(stripFence(merged?.validator)).toEqual(OWN);
    expect(stripFence(mergeFence({}, CLAUSE, 0)?.validator)).toBeUndefined();
    expect(stripFence({ $and: [OWN, { y: 1 }] })).toEqual({ $and: [OWN, { y: 1 }] });
  });

  test("lays rules aside that reject nothing today", () => {
    expect(mergeFence({ validator: OWN, validationAction: "warn" }, CLAUSE, 0)?.validator).toEqual(CLAUSE);
    expect(mergeFence({ validator: OWN, validationLevel: "off" }, CLAUSE, 0)?.validator).toEqual(CLAUSE);
  });

  test("merges moderate rules only while no document breaks them", () => {
    const own = { validator: OWN, validationLevel: "moderate" };
    expect(mergeFence(own, CLAUSE, 0)?.validator).toEqual({ $and: [OWN, CLAUSE] });
    expect(mergeFence(own, CLAUSE, 1)).toBeUndefined();
  });

  test("settings are kept and compared with every BSON type", () => {
    const own = { validator: { n: { $in: [new Int32(1)] }, at: { $gt: new Date(0) } }, validationLevel: "moderate" };
    expect(sameOptions(thawOptions(freezeOptions(own)), own)).toBe(true);
    expect(sameOptions({}, { validator: {}, validationLevel: "strict", validationAction: "error" })).toBe(true);
    expect(sameOptions({}, { validationAction: "warn" })).toBe(false);
  });

  test("whatever the own rules are, stripping gives them back", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ minLength: 1 }), fc.integer(), { minKeys: 1 }), (own) => {
        expect(stripFence(mergeFence({ validator: own }, CLAUSE, 0)?.validator)).toEqual(own);
      }),
    );
  });
});
