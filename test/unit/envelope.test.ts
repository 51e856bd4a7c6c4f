import { expect, test } from "bun:test";
import { createCipheriv, createDecipheriv } from "node:crypto";
import { Binary, Double, deserialize, Int32, Long, ObjectId, serialize, UUID } from "bson";
import fc from "fast-check";
import { dekAad, dekAadOf, fieldAad, placeOf } from "../../src/envelope/aad.ts";
import { MAX_PLAINTEXT_BYTES, readEnvelope, toStored } from "../../src/envelope/envelope.ts";
import { newDek, openField, sealField } from "../../src/envelope/field_cipher.ts";
import { open, seal, unwrapWithKey, wrapWithKey } from "../../src/envelope/gcm.ts";
import { exactId, idBsonOf, readWrap, splitDocuments } from "../../src/envelope/raw_record.ts";
import { KekError } from "../../src/errors/errors.ts";

const INSTALL = "2f4c1f0e-1111-4222-8333-444455556666";
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

/** docs/format.md, written out by hand: uint32 big-endian length, then the bytes. */
function byHand(...parts: (string | Uint8Array)[]): string {
  return parts
    .map((part) => {
      const body = Buffer.from(part as string);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(body.length);
      return length.toString("hex") + body.toString("hex");
    })
    .join("");
}

test("the AAD of a field and of a DEK are the contract's, to the byte", () => {
  const place = placeOf("users", new ObjectId("65a1b2c3d4e5f60718293a4b"), "totp.seed");
  const id = Buffer.from("1600000007 5f696400 65a1b2c3d4e5f60718293a4b 00".replaceAll(" ", ""), "hex");
  expect(Buffer.from(place.idBson).equals(id)).toBe(true);
  expect(Buffer.from(fieldAad(INSTALL, place)).toString("hex")).toBe(
    byHand("certautopilot/field/1", INSTALL, "users", id, "totp.seed"),
  );
  const dek = byHand("certautopilot/dek/1", INSTALL, "env", "12", "users", id, "totp.seed");
  expect(Buffer.from(dekAad(INSTALL, "env", 12, place)).toString("hex")).toBe(dek);
  expect(Buffer.from(dekAadOf(INSTALL, "env", 12, "users", "totp.seed")(id)).toString("hex")).toBe(dek);
});

test("what a wrap held is zeroed when it does not open: with another AAD it is the data key all the same", () => {
  const [kek, dek] = [Buffer.alloc(32, 7), Buffer.alloc(32, 9)];
  const wrap = wrapWithKey(kek, dek, Buffer.from("one record"));
  const decipher = Object.getPrototypeOf(createDecipheriv("aes-256-gcm", kek, wrap.subarray(0, 12)));
  const update = decipher.update;
  const given: Buffer[] = [];
  const held: string[] = [];
  decipher.update = function (...words: unknown[]) {
    const plaintext = update.apply(this, words);
    given.push(plaintext);
    held.push(plaintext.toString("hex"));
    return plaintext;
  };
  try {
    expect(() => unwrapWithKey(kek, wrap, Buffer.from("another"))).toThrow();
    expect(unwrapWithKey(kek, wrap, Buffer.from("one record"))).toEqual(dek);
  } finally {
    decipher.update = update;
  }
  expect(held).toEqual([dek.toString("hex"), dek.toString("hex")]);
  expect(given.map((plaintext) => plaintext.toString("hex"))).toEqual([
    Buffer.alloc(32).toString("hex"),
    dek.toString("hex"),
  ]);
});

test("a wrap is iv, ciphertext and tag of AES-256-GCM", () => {
  fc.assert(
    fc.property(bytes(32), bytes(32), fc.uint8Array({ minLength: 1, maxLength: 300 }), (key, dek, aad) => {
      const wrapped = wrapWithKey(key, dek, aad);
      expect(wrapped.length).toBe(60);
      const cipher = createCipheriv("aes-256-gcm", key, wrapped.subarray(0, 12)).setAAD(aad);
      const expected = Buffer.concat([cipher.update(dek), cipher.final(), cipher.getAuthTag()]);
      expect(wrapped.subarray(12).equals(expected)).toBe(true);
      expect(unwrapWithKey(key, wrapped, aad).equals(Buffer.from(dek))).toBe(true);
    }),
  );
});

test("a field of any length opens at its own place, and nowhere else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 5000 }), fc.string({ minLength: 1 }), (plaintext, id) => {
      const dek = newDek();
      const place = placeOf("c", id, "f");
      const sealed = sealField(dek, plaintext, INSTALL, place);
      expect(sealed.ciphertext.length).toBe(plaintext.length + 16);
      expect(openField(dek, sealed, INSTALL, place).equals(Buffer.from(plaintext))).toBe(true);
      for (const other of [placeOf("d", id, "f"), placeOf("c", `${id}x`, "f"), placeOf("c", id, "g")]) {
        expect(() => openField(dek, sealed, INSTALL, other)).toThrow(KekError);
      }
      expect(() => openField(dek, sealed, "another install", place)).toThrow(KekError);
    }),
    { numRuns: 50 },
  );
});

test("a plaintext of 8 MiB fits, one byte more does not", () => {
  const place = placeOf("c", 1, "f");
  expect(sealField(newDek(), new Uint8Array(MAX_PLAINTEXT_BYTES), INSTALL, place).ciphertext.length).toBe(
    MAX_PLAINTEXT_BYTES + 16,
  );
  expect(() => sealField(newDek(), new Uint8Array(MAX_PLAINTEXT_BYTES + 1), INSTALL, place)).toThrow("8 MiB");
});

test("any flipped bit of a wrap is noticed", () => {
  fc.assert(
    fc.property(bytes(32), fc.nat(60 * 8 - 1), (key, bit) => {
      const wrapped = wrapWithKey(key, new Uint8Array(32), Buffer.from("aad"));
      wrapped[bit >> 3] = (wrapped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => unwrapWithKey(key, wrapped, Buffer.from("aad"))).toThrow();
    }),
  );
});

const good = () =>
  toStored({
    provider: "env",
    version: 3,
    wrappedDek: new Uint8Array(60),
    nonce: new Uint8Array(12),
    ciphertext: new Uint8Array(40),
  });

test("a tag that was cut is no tag, of whatever length", () => {
  const [key, iv, aad] = [Buffer.alloc(32, 1), Buffer.alloc(12, 2), Buffer.from("here")];
  for (const plaintext of [Buffer.alloc(0), Buffer.alloc(40, 3)]) {
    const sealed = seal(key, iv, plaintext, aad);
    expect(sealed.length).toBe(plaintext.length + 16);
    expect(open(key, iv, sealed, aad)).toEqual(plaintext);
    for (let length = 0; length < sealed.length; length += 1) {
      expect(() => open(key, iv, sealed.subarray(0, length), aad)).toThrow();
      expect(() => open(key, iv, sealed.subarray(sealed.length - length), aad)).toThrow();
    }
  }
});

test("an envelope survives BSON, with promoted values and without", () => {
  for (const promoteValues of [true, false]) {
    const read = readEnvelope(deserialize(serialize({ f: good() }), { promoteValues })["f"], "env");
    expect(read).toMatchObject({ provider: "env", version: 3 });
    expect([read.wrappedDek.length, read.nonce.length, read.ciphertext.length]).toEqual([60, 12, 40]);
  }
});

test("what is not exactly format 1 is refused, saying what is wrong", () => {
  const wrong: [string, unknown][] = [
    ["not a subdocument", "text"],
    ["not a subdocument", [good()]],
    ["unknown key", { ...good(), extra: 1 }],
    ["has no nonce", (({ nonce: _nonce, ...rest }) => rest)(good())],
    ["format is not 1", { ...good(), format: new Int32(2) }],
    ["format is not 1", { ...good(), format: "1" }],
    ["provider", { ...good(), provider: "pkcs11" }],
    ["kek_version", { ...good(), kek_version: 0 }],
    ["kek_version", { ...good(), kek_version: -1 }],
    ["kek_version", { ...good(), kek_version: 1.5 }],
    ["kek_version", { ...good(), kek_version: Long.fromNumber(3) }],
    ["kek_version", { ...good(), kek_version: new Double(3) }],
    ["kek_version", { ...good(), kek_version: 2 ** 31 }],
    ["wrapped_dek", { ...good(), wrapped_dek: new Binary(new Uint8Array(59), 0) }],
    ["wrapped_dek", { ...good(), wrapped_dek: new Binary(new Uint8Array(60), 4) }],
    ["wrapped_dek", { ...good(), wrapped_dek: "x".repeat(60) }],
    ["nonce", { ...good(), nonce: new Binary(new Uint8Array(16), 0) }],
    ["ciphertext", { ...good(), ciphertext: new Binary(new Uint8Array(15), 0) }],
  ];
  for (const [reason, stored] of wrong) {
    expect(() => readEnvelope(stored, "env")).toThrow(reason);
  }
});

test("an _id is cut out of raw BSON byte for byte, and decodes to what encodes the same", () => {
  const ids: unknown[] = [
    new ObjectId(),
    "text with \u0000 and 😀",
    5,
    new Double(5),
    Long.fromString("9007199254740993"),
    Long.fromNumber(7),
    new UUID(),
    new Binary(new Uint8Array([1, 2, 3]), 0),
    new Date(0),
    true,
    new Map<string, unknown>([
      ["10", 1],
      ["9", new Map([["z", new Double(2)]])],
      ["a", [1, "x", Long.fromNumber(3)]],
    ]),
  ];
  for (const id of ids) {
    const raw = serialize({ before: 1, _id: id, after: "x" });
    const idBson = idBsonOf(raw);
    expect(Buffer.from(idBson).equals(Buffer.from(serialize({ _id: id })))).toBe(true);
    expect(Buffer.from(serialize({ _id: exactId(idBson) })).equals(Buffer.from(idBson))).toBe(true);
  }
});

test("a wrap is read from raw BSON at a dotted path, strictly", () => {
  const raw = serialize({ _id: 1, a: { b: good() } });
  expect(readWrap(raw, "a.b")).toMatchObject({ provider: "env", version: 3 });
  expect(() => readWrap(raw, "a.c")).toThrow("nothing at a.c");
  expect(() => readWrap(serialize({ _id: 1, a: 5 }), "a.b")).toThrow("not a subdocument");
  for (const [reason, change] of [
    ["int32", { kek_version: Long.fromNumber(3) }],
    ["int32", { kek_version: new Double(3) }],
    ["BinData", { wrapped_dek: "text" }],
    ["59 bytes", { wrapped_dek: new Binary(new Uint8Array(59), 0) }],
    ["provider", { provider: 1 }],
  ] as const) {
    expect(() => readWrap(serialize({ _id: 1, f: { ...good(), ...change } }), "f")).toThrow(reason);
  }
});

test("documents one behind the other are told apart", () => {
  const documents = [serialize({ _id: 1 }), serialize({ _id: "two", x: [1, 2, 3] }), serialize({ _id: 3 })];
  expect([...splitDocuments(Buffer.concat(documents))].map((document) => deserialize(document)["_id"])).toEqual([
    1,
    "two",
    3,
  ]);
});
