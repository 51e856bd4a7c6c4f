import { expect, test } from "bun:test";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { Binary, Decimal128, Double, deserialize, Int32, Long, ObjectId, serialize, UUID } from "bson";
import { projectedWrapReader } from "../../src/envelope/projected_wrap.ts";
import { idBsonOf, readWrap } from "../../src/envelope/raw_record.ts";
import { rewrapStatements } from "../../src/store/rewrap_statement.ts";

const UNTIL = new Date("2026-05-01T12:00:00Z");

/** The bytes of a rewrap, read and written without a decoder: beside what the decoder and the encoder make of the same. */

const bytes = (length: number, seed: string) =>
  Buffer.concat(
    Array.from({ length: Math.ceil(length / 32) }, (_, at) => createHash("sha256").update(`${seed}/${at}`).digest()),
  ).subarray(0, length);
const wrap = (seed: string) => bytes(60, seed);
const IDS: unknown[] = [
  7,
  new ObjectId("64b7f0c2a1d3e4f506172839"),
  Long.fromString("9007199254740993"),
  "text with \u0000 and 😀",
  "",
  new Double(5),
  new UUID("2f4c1f0e-1111-4222-8333-444455556666"),
  new Date(0),
  true,
  null,
  new Map<string, unknown>([
    ["10", 1],
    ["9", new Map([["z", new Double(2)]])],
  ]),
];

function projected(id: unknown, path: string, envelope: object): Buffer {
  const nested = path.split(".").reduceRight<object>((inner, name) => ({ [name]: inner }), envelope);
  return Buffer.from(serialize(new Map<string, unknown>([["_id", id], ...Object.entries(nested)])));
}

const envelope = (seed: string) => ({
  provider: "env",
  kek_version: new Int32(3),
  wrapped_dek: new Binary(wrap(seed), 0),
});

/** By the careful readers, or what they throw. */
function carefully(raw: Buffer, path: string): unknown {
  try {
    return { ...readWrap(raw, path), idBson: idBsonOf(raw) };
  } catch (thrown) {
    return String(thrown);
  }
}

function quickly(read: ReturnType<typeof projectedWrapReader>, raw: Buffer): unknown {
  try {
    return read(raw);
  } catch (thrown) {
    return String(thrown);
  }
}

const plain = (read: unknown) =>
  typeof read === "object" && read !== null
    ? Object.fromEntries(
        Object.entries(read).map(([key, value]) => [
          key,
          value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value,
        ]),
      )
    : read;

test("a projected record is read as the careful reader reads it, whatever its _id and path", () => {
  for (const path of ["value", "a.b.c", "größe.ключ"]) {
    const read = projectedWrapReader(path, "env", 3);
    for (const id of IDS) {
      const raw = projected(id, path, envelope("old"));
      expect(plain(read(raw))).toEqual(plain(carefully(raw, path)));
      expect(read(raw).wrappedDek).toEqual(new Uint8Array(wrap("old")));
    }
  }
});

test("another order, version, provider, length or member is read by the careful reader", () => {
  const { provider, kek_version, wrapped_dek } = envelope("old");
  for (const other of [
    { wrapped_dek, kek_version, provider },
    { provider, kek_version: new Int32(4), wrapped_dek },
    { provider: "pkcs11", kek_version, wrapped_dek },
    { provider, kek_version, wrapped_dek: new Binary(bytes(59, "short"), 0) },
    { provider, kek_version, wrapped_dek: new Binary(wrap("old"), 4) },
    { provider, kek_version, wrapped_dek, more: 1 },
    {},
  ]) {
    const raw = projected(7, "value", other);
    expect(plain(quickly(projectedWrapReader("value", "env", 3), raw))).toEqual(plain(carefully(raw, "value")));
  }
});

test("a number of another type is no version, whatever its value; neither reader takes it", () => {
  const { provider, wrapped_dek } = envelope("old");
  const types: [unknown, string][] = [
    [Long.fromNumber(3), "an int64"],
    [new Double(3), "a double"],
    [Decimal128.fromString("3"), "a decimal128"],
    [Decimal128.fromString("3.0"), "a decimal128"],
    ["3", "a string"],
    [[new Int32(3)], "an array"],
    [null, "null"],
  ];
  for (const path of ["value", "a.b"]) {
    for (const id of IDS) {
      for (const [kek_version, name] of types) {
        const raw = projected(id, path, { provider, kek_version, wrapped_dek });
        const said = quickly(projectedWrapReader(path, "env", 3), raw);
        expect(said).toBe(carefully(raw, path) as string);
        expect(said).toContain(`its kek_version is ${name}, not an int32`);
      }
    }
  }
  const none = projected(7, "value", { provider, wrapped_dek });
  expect(carefully(none, "value")).toContain("it has no kek_version");
});

test("a field that is there twice is not read: MongoDB may mean the other one", () => {
  const one = Buffer.from(serialize({ value: envelope("one") })).subarray(4, -1);
  const two = Buffer.from(serialize({ value: { ...envelope("two"), kek_version: new Int32(4) } })).subarray(4, -1);
  const id = Buffer.from(serialize({ _id: 7 })).subarray(4, -1);
  const raw = Buffer.concat([Buffer.alloc(4), id, two, one, Buffer.alloc(1)]);
  raw.writeInt32LE(raw.length, 0);
  const said = quickly(projectedWrapReader("value", "env", 3), raw);
  expect(said).toContain("value of value is there twice");
});

test("whichever byte is changed, both readers say the same", () => {
  const read = projectedWrapReader("a.b", "env", 3);
  for (const id of IDS.slice(0, 5)) {
    const raw = projected(id, "a.b", envelope("old"));
    for (let at = 0; at < raw.length; at += 1) {
      for (const value of [0, 1, 2, 5, 7, 16, 18, 0x61, 0xff, (raw[at] as number) + 1]) {
        const changed = Buffer.from(raw);
        changed[at] = value & 0xff;
        // The length of the whole is MongoDB's answer's to keep: batches are cut by it.
        if (at < 4) continue;
        expect([at, value, plain(quickly(read, changed))]).toEqual([at, value, plain(carefully(changed, "a.b"))]);
      }
    }
  }
});

test("a statement's bytes are what the encoder makes of it", () => {
  for (const path of ["value", "a.b.c", "größe.ключ", `${"long".repeat(500)}.er`]) {
    for (const count of [1, 2, 11, 101]) {
      const group = Array.from({ length: count }, (_, at) => ({
        id: IDS[at % IDS.length],
        idBson: serialize({ _id: IDS[at % IDS.length] }),
        oldWrap: wrap(`old ${at}`),
        newWrap: wrap(`new ${at}`),
      }));
      const olds = group.map(({ oldWrap }) => new Binary(oldWrap, 0));
      const news = group.map(({ newWrap }) => new Binary(newWrap, 0));
      const branches = [
        // biome-ignore lint/suspicious/noThenProperty: the name is MongoDB's
        { case: { $gte: ["$$at", 0] }, then: { $arrayElemAt: [{ $literal: news }, "$$at"] } },
      ];
      const chosen = {
        $let: {
          vars: { at: { $indexOfArray: [{ $literal: olds }, `$${path}.wrapped_dek`] } },
          in: { $switch: { branches } },
        },
      };
      const expected = serialize({
        q: {
          _id: { $in: group.map(({ id }) => id) },
          [`${path}.kek_version`]: new Int32(3),
          [`${path}.wrapped_dek`]: { $in: olds },
          $expr: { $lt: ["$$NOW", UNTIL] },
        },
        u: [{ $set: { [`${path}.kek_version`]: new Int32(4), [`${path}.wrapped_dek`]: chosen } }],
        multi: true,
        hint: { _id: 1 },
      });
      const made = rewrapStatements(path, 3, 4, UNTIL)(group);
      expect(Buffer.from(made).equals(expected)).toBe(true);
      deserialize(made);
    }
  }
});

test("one maker makes many statements, none of which shares bytes with another", () => {
  const make = rewrapStatements("value", 1, 2, UNTIL);
  const one = make([{ idBson: serialize({ _id: 1 }), oldWrap: wrap("a"), newWrap: wrap("b") }]);
  const before = Buffer.from(one).toString("hex");
  make([{ idBson: serialize({ _id: 2 }), oldWrap: wrap("c"), newWrap: wrap("d") }]);
  expect(Buffer.from(one).toString("hex")).toBe(before);
});
