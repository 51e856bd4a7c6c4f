import { describe, expect, test } from "bun:test";
import { Int32 } from "bson";
import fc from "fast-check";
import { removalCommand } from "../../src/fleet/write_fence_command.ts";
import { rejectingCollections, versionsRejected } from "../../src/fleet/write_fence_setter.ts";
import {
  fences,
  namesOthers,
  rejects,
  withoutWriteFence,
  withWriteFence,
  writeFenceClause,
} from "../../src/protocol/write_fence.ts";
import { freezeOptions, sameOptions, thawOptions } from "../../src/store/validators.ts";

const CLAUSE = writeFenceClause(["a.b", "c"], [1, 2]);
const OWN = { $jsonSchema: { required: ["x"] } };

describe("the fence", () => {
  test("rejects the left versions at every path, strictly", () => {
    const merged = withWriteFence({}, CLAUSE, 0);
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
    const merged = withWriteFence({ validator: OWN, validationLevel: "strict" }, CLAUSE, 0);
    expect(merged?.validator).toEqual({ $and: [OWN, CLAUSE] });
    expect(fences(merged, ["c"], 1)).toBe(true);
    expect(withoutWriteFence(merged?.validator)).toEqual(OWN);
    expect(withoutWriteFence(withWriteFence({}, CLAUSE, 0)?.validator)).toBeUndefined();
    expect(withoutWriteFence({ $and: [OWN, { y: 1 }] })).toEqual({ $and: [OWN, { y: 1 }] });
  });

  test("lays rules aside that reject nothing today", () => {
    expect(withWriteFence({ validator: OWN, validationAction: "warn" }, CLAUSE, 0)?.validator).toEqual(CLAUSE);
    expect(withWriteFence({ validator: OWN, validationLevel: "off" }, CLAUSE, 0)?.validator).toEqual(CLAUSE);
  });

  test("merges moderate rules only while no document breaks them", () => {
    const own = { validator: OWN, validationLevel: "moderate" };
    expect(withWriteFence(own, CLAUSE, 0)?.validator).toEqual({ $and: [OWN, CLAUSE] });
    expect(withWriteFence(own, CLAUSE, 1)).toBeUndefined();
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
        expect(withoutWriteFence(withWriteFence({ validator: own }, CLAUSE, 0)?.validator)).toEqual(own);
      }),
    );
  });

  test("what a live validator rejects does not depend on a record, nor on every path being fenced", () => {
    const merged = withWriteFence({ validator: OWN }, CLAUSE, 0);
    expect(rejects(merged, "c", 2)).toBe(true);
    expect(rejects(merged, "c", 3)).toBe(false);
    expect(rejects(merged, "d", 2)).toBe(false);
    // Moderate rules reject a new record, though they are no fence.
    expect(rejects({ ...merged, validationLevel: "moderate" }, "c", 2)).toBe(true);
    expect(rejects({ ...merged, validationLevel: "off" }, "c", 2)).toBe(false);
    expect(rejects({ ...merged, validationAction: "warn" }, "c", 2)).toBe(false);
    expect(rejects({ validator: { "c.kek_version": { $in: [2] } } }, "c", 2)).toBe(false);
    expect([namesOthers(merged ?? {}, [2, 1]), namesOthers(merged ?? {}, [1]), namesOthers({}, [])]).toEqual([
      false,
      true,
      false,
    ]);
  });

  test("a collection that rejects a version is named with the command that leaves it its own rules", () => {
    const field = (collection: string, path: string) => ({ _id: `${collection}:${path}`, collection, path });
    const fields = [field("fenced", "c"), field("fenced", "d"), field("free", "c")];
    const own = { validator: OWN, validationAction: "warn" };
    const live = new Map([
      ["fenced", { validator: CLAUSE, validationLevel: "strict", validationAction: "error" }],
      ["free", { validator: OWN }],
    ]);
    const strict = 'validationLevel: "strict", validationAction: "error"';
    const command = `db.getSiblingDB("db").runCommand({ collMod: "fenced", validator: {}, ${strict} })`;
    expect(rejectingCollections({ database: "db", live, fields, version: 2 })).toEqual([
      { collection: "fenced", paths: ["c"], remedy: command },
    ]);
    expect(rejectingCollections({ database: "db", live, fields, version: 3 })).toEqual([]);
    // Rules that the fence laid aside are known to the record alone.
    const entry = { collection: "fenced", own: freezeOptions(own), expected: freezeOptions({ validator: CLAUSE }) };
    const [found] = rejectingCollections({
      database: "db",
      live,
      fields,
      version: 2,
      record: { versions: [2], collections: [entry] },
    });
    expect(found?.remedy).toBe(removalCommand("db", "fenced", own));
    expect(found?.remedy).toContain('validationAction: "warn"');
  });

  test("the version that the fence rejected is read from MongoDB's answer, of one write and of several", () => {
    const details = (version: unknown) => ({
      operatorName: "$nor",
      clausesSatisfied: [
        { details: { specifiedAs: { "a.b.kek_version": { $in: [1, 2] } }, consideredValue: version } },
      ],
    });
    const errInfo = { failingDocumentId: 1n, details: details(new Int32(2)) };
    expect(versionsRejected({ code: 121, errInfo })).toEqual([2]);
    expect(versionsRejected({ code: 121, writeErrors: [{ err: { errInfo } }] })).toEqual([2]);
    expect(
      versionsRejected({ code: 121, errInfo: { details: { specifiedAs: { owner: 1 }, consideredValue: 5 } } }),
    ).toEqual([]);
    expect(versionsRejected({ code: 11000, errInfo })).toEqual([]);
  });
});
