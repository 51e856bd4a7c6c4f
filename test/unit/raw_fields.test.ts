import { expect, test } from "bun:test";
import { type Document, deserialize, Long, serialize } from "bson";
import fc from "fast-check";
import { binaryOf, fieldsIn, isVoid, toBinary, toDocument, withValues } from "../../src/envelope/raw_fields.ts";
import { codeOf } from "../harness/codes.ts";

/** Fields found and replaced in raw BSON: everything around them stays as it is. */

const PATHS = ["a", "in.deep.b", "in.c", "z"];
const value = fc.oneof(
  fc.string(),
  fc.integer(),
  fc.constant(null),
  fc.uint8Array(),
  fc.constant({ x: [1, { y: "" }] }),
);
const record = fc.record(
  {
    _id: fc.integer(),
    a: value,
    in: fc.record({ deep: fc.record({ o: value, b: value, p: value }, { requiredKeys: [] }), c: value }),
    other: value,
    z: value,
  },
  { requiredKeys: ["_id"] },
);

const at = (document: Document, path: string) =>
  path.split(".").reduce<unknown>((inner, name) => (inner as Document)?.[name], document);
const set = (document: Document, path: string, to: unknown) => {
  const names = path.split(".");
  const last = names.pop() as string;
  (names.reduce((inner, name) => inner[name], document) as Document)[last] = to;
};

test("what is put in place of fields is there, and nothing else has changed", () => {
  fc.assert(
    fc.property(record, fc.uint8Array({ maxLength: 300 }), fc.boolean(), (document, bytes, nested) => {
      const raw = serialize(document);
      const fields = fieldsIn(raw, PATHS);
      expect(fields.map(({ path }) => path).sort()).toEqual(
        PATHS.filter((path) => at(document, path) !== undefined).sort(),
      );
      const inner = { n: Long.fromNumber(7), text: "x" };
      const expected = deserialize(raw, { promoteValues: false });
      for (const { path } of fields) set(expected, path, nested ? inner : Buffer.from(bytes));
      const values = fields.map((field) => (nested ? toDocument(field, serialize(inner)) : toBinary(field, bytes)));
      expect(withValues(raw, values)).toEqual(Buffer.from(serialize(expected)));
      // And back: the very bytes that were there.
      const again = fieldsIn(withValues(raw, values), PATHS);
      const back = again.map((field, index) => ({ ...(fields[index] as (typeof fields)[number]), field }));
      const restored = back.map(({ field, type, value: before }) => ({ field, type, value: before }));
      expect(withValues(withValues(raw, values), restored)).toEqual(Buffer.from(raw));
    }),
  );
});

test("null, undefined and empty text are no secrets; bytes of subtype 0 are", () => {
  const raw = serialize({ a: null, z: "", in: { c: Buffer.from("secret") } });
  expect(
    fieldsIn(raw, PATHS).map((field) => [field.path, isVoid(field), Buffer.from(binaryOf(field) ?? []).toString()]),
  ).toEqual([
    ["a", true, ""],
    ["z", true, ""],
    ["in.c", false, "secret"],
  ]);
});

test("where a path could mean several fields it means none", async () => {
  const twice = Buffer.concat([serialize({ a: 1 }).subarray(4, -1), serialize({ a: 2 }).subarray(4, -1)]);
  const doubled = Buffer.concat([Buffer.alloc(4), twice, Buffer.from([0])]);
  doubled.writeInt32LE(doubled.length, 0);
  for (const [raw, paths] of [
    [doubled, ["a"]],
    [serialize({ in: [{ c: 1 }] }), ["in.c"]],
    [serialize({ in: [{ x: 1 }, [{ deep: { b: 1 } }]] }), ["in.deep.b"]],
    [serialize({ in: { c: { d: 1 } } }), ["in", "in.c"]],
    [Buffer.from("no bson"), ["a"]],
  ] as [Uint8Array, string[]][])
    expect(await codeOf(() => fieldsIn(raw, paths))).toBe("envelope_invalid");
  expect(fieldsIn(serialize({ in: [{ x: 1 }, []] }), ["in.c"])).toEqual([]);
  expect(fieldsIn(serialize({ in: "text" }), ["in.c"])).toEqual([]);
});
