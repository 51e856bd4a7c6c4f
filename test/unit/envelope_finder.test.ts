import { describe, expect, test } from "bun:test";
import { Binary, Decimal128, Double, Long, MaxKey, MinKey, ObjectId, serialize, Timestamp } from "bson";
import { findEnvelopes, versionLabel } from "../../src/envelope/envelope_finder.ts";
import { KekError } from "../../src/errors/errors.ts";

/** Envelopes are found wherever they lie in a record, and nothing else is taken for one. */

function batch(...documents: object[]): Uint8Array {
  return serialize(Object.fromEntries(documents.map((document, index) => [String(index), document])));
}

function envelope(version: unknown, more: object = {}) {
  return { format: 1, provider: "env", kek_version: version, wrapped_dek: new Binary(new Uint8Array(60)), ...more };
}

function found(...documents: object[]): [string, string][] {
  const all: [string, string][] = [];
  findEnvelopes(batch(...documents), ({ path, version }) => all.push([path, versionLabel(version)]));
  return all;
}

describe("where an envelope lies", () => {
  test("at the top, deeper, in arrays, in arrays of arrays, and as the record itself", () => {
    expect(
      found(
        { _id: 1, token: envelope(1) },
        { _id: 2, name: "x", card: { pan: { deep: envelope(2) } } },
        { _id: 3, devices: [{ secret: envelope(1) }, { name: "none" }, { secret: envelope(3) }] },
        { _id: 4, grid: [[envelope(1)], [envelope(2)]] },
        { _id: 5, ...envelope(7) },
        { _id: 6, backup: { token: envelope(1) }, token: envelope(1) },
      ),
    ).toEqual([
      ["token", "1"],
      ["card.pan.deep", "2"],
      ["devices[].secret", "1"],
      ["devices[].secret", "3"],
      ["grid[][]", "1"],
      ["grid[][]", "2"],
      ["", "7"],
      ["backup.token", "1"],
      ["token", "1"],
    ]);
  });

  test("members in any order, and an envelope within an envelope", () => {
    const reversed = { wrapped_dek: new Binary(new Uint8Array(60)), nonce: "x", kek_version: 4 };
    expect(found({ token: reversed }, { token: envelope(1, { old: envelope(2) }) })).toEqual([
      ["token", "4"],
      ["token.old", "2"],
      ["token", "1"],
    ]);
  });
});

test("every numeric type of a version, and what is no number", () => {
  const versions = [1, Long.fromNumber(2), new Double(3), Decimal128.fromString("4"), "5", null];
  expect(found(...versions.map((version) => ({ token: envelope(version) }))).map(([, label]) => label)).toEqual([
    "1",
    "2 (long)",
    "3 (double)",
    "4 (decimal)",
    "no number",
    "no number",
  ]);
});

test("the name alone, in text, in binary data or in another member's name is no envelope", () => {
  expect(
    found(
      { kek_version: 1 },
      { text: "kek_version" },
      { text: { kek_version: 1, wrapped: "dek" } },
      { data: new Binary(serialize({ token: envelope(1) })) },
      { my_kek_version: 1, wrapped_dek: 2 },
      { kek_version_2: 1, wrapped_dek: 2 },
    ),
  ).toEqual([]);
});

test("every BSON type is passed over by its length", () => {
  const all = {
    double: new Double(1.5),
    text: "ä\0b",
    empty: {},
    list: [1, [2], { three: 3 }],
    binary: new Binary(new Uint8Array(9)),
    id: new ObjectId(),
    yes: true,
    date: new Date(0),
    nothing: null,
    pattern: /kek_version/i,
    int: 1,
    timestamp: new Timestamp({ t: 1, i: 2 }),
    long: Long.MAX_VALUE,
    decimal: Decimal128.fromString("1.5"),
    least: new MinKey(),
    most: new MaxKey(),
  };
  expect(found({ ...all, token: envelope(1), ...all }, { all, list: [all, envelope(2), all] })).toEqual([
    ["token", "1"],
    ["list[]", "2"],
  ]);
});

test("where a record begins and ends is told with it, and how many there are", () => {
  const bytes = batch({ _id: 1 }, { _id: 2, token: envelope(1) }, { _id: 3 });
  const records: Uint8Array[] = [];
  const count = findEnvelopes(bytes, (_, { start, end }) => records.push(bytes.slice(start, end)));
  expect(count).toBe(3);
  expect(records).toEqual([serialize({ _id: 2, token: envelope(1) })]);
});

test("a damaged answer is an error, never a smaller count", () => {
  const bytes = batch({ _id: 1, token: envelope(1) }, { _id: 2, token: envelope(1) });
  for (let cut = 1; cut < bytes.length; cut += 1) {
    const damaged = bytes.slice(0, bytes.length - cut);
    expect(() => findEnvelopes(damaged, () => undefined)).toThrow(KekError);
  }
  expect(() => findEnvelopes(serialize({ "0": 5 }), () => undefined)).toThrow(KekError);
});
