import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { Binary, Double, deserialize, Int32, Long, ObjectId, serialize } from "bson";
import { dekAad, fieldAad, placeOf } from "../../src/envelope/aad.ts";
import { MAX_PLAINTEXT_BYTES, readEnvelope, toStored } from "../../src/envelope/envelope.ts";
import { openField, sealField } from "../../src/envelope/field_cipher.ts";
import { unwrapWithKey, wrapWithKey } from "../../src/envelope/gcm.ts";
import { exactId, idBsonOf, idTextOf, readWrap, splitDocuments } from "../../src/envelope/raw_record.ts";
import { KekError } from "../../src/errors/errors.ts";

/** Envelopes that were damaged or forged: nothing but a typed error, or the very plaintext, ever comes of one. */

const INSTALL = "2f4c1f0e-1111-4222-8333-444455556666";
const KEK = Buffer.alloc(32, 7);
const PLAINTEXT = Buffer.from("the secret of record 5");
const PLACE = placeOf("users", 5, "totp.seed");
const UNREADABLE = ["envelope_invalid", "decryption_failed"];

/** Numbers that look random and are the same in every run. */
function seeded(seed: number): (below: number) => number {
  let at = 0;
  return (below) => {
    at += 1;
    const digest = createHash("sha256").update(`${seed}/${at}`).digest();
    return digest.readUInt32BE(0) % below;
  };
}

function envelopeAt(place = PLACE, version = 3, installId = INSTALL) {
  const dek = Buffer.alloc(32, 9);
  const wrappedDek = wrapWithKey(KEK, dek, dekAad(installId, "env", version, place));
  return toStored({ provider: "env", version, wrappedDek, ...sealField(dek, PLAINTEXT, installId, place) });
}

const RECORD = Buffer.from(serialize({ before: 1, _id: 5, totp: { seed: envelopeAt() }, after: "x" }));

/** Everything that is done with a record, from its bytes as MongoDB sends them to the plaintext. */
function openRecord(raw: Uint8Array): Buffer {
  const idBson = idBsonOf(raw);
  const place = { collection: "users", idBson, path: "totp.seed" };
  exactId(idBson);
  const wrap = readWrap(raw, "totp.seed");
  const record = deserialize(raw, { promoteValues: false }) as { totp: { seed: unknown } };
  const envelope = readEnvelope(record.totp.seed, "env");
  expect([wrap.provider, wrap.version]).toEqual([envelope.provider, envelope.version]);
  expect(Buffer.from(wrap.wrappedDek).equals(envelope.wrappedDek)).toBe(true);
  const aad = dekAad(INSTALL, "env", envelope.version, place);
  let dek: Buffer;
  try {
    dek = unwrapWithKey(KEK, envelope.wrappedDek, aad);
  } catch {
    // What the providers make of it: test/unit/providers.test.ts.
    throw new KekError("decryption_failed", "the wrap does not open", "-");
  }
  return openField(dek, envelope, INSTALL, place);
}

/** @returns "opened" for the right plaintext, or the code of the error; anything else that is thrown fails the test. */
function outcome(work: () => Buffer): string {
  try {
    return work().equals(PLAINTEXT) ? "opened" : "OTHER BYTES";
  } catch (thrown) {
    if (thrown instanceof KekError) return thrown.code;
    throw thrown;
  }
}

/** The parts of a rewrap, each by itself: it must hold where BSON as such is broken, which `deserialize` is not asked about. */
function readParts(raw: Uint8Array): void {
  for (const part of [
    () => readWrap(raw, "totp.seed"),
    () => exactId(idBsonOf(raw)),
    () => [...splitDocuments(raw)],
    () => [...splitDocuments(Buffer.concat([RECORD, raw, RECORD]))],
  ]) {
    try {
      part();
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      expect(thrown.code).toBe("envelope_invalid");
    }
  }
}

test("the record of these tests opens", () => {
  expect(outcome(() => openRecord(RECORD))).toBe("opened");
});

test("a record with any one byte flipped, in any way, is read to a typed error or not at all wrongly", () => {
  const random = seeded(1);
  for (let at = 0; at < RECORD.length; at += 1) {
    for (const mask of [0x01, 0x80, 0xff, 1 + random(255)]) {
      const changed = Buffer.from(RECORD);
      changed[at] = (changed[at] as number) ^ mask;
      readParts(changed);
    }
  }
});

test("a record cut off anywhere, with or without its length put right, and with bytes behind it, is refused", () => {
  for (let length = 0; length < RECORD.length; length += 1) {
    const cut = Buffer.from(RECORD.subarray(0, length));
    if (length > 0) expect(() => [...splitDocuments(cut)]).toThrow("no BSON");
    readParts(cut);
    if (length < 5) continue;
    cut.writeInt32LE(length, 0);
    cut[length - 1] = 0;
    readParts(cut);
  }
  expect(() => [...splitDocuments(Buffer.concat([RECORD, Buffer.from([1, 2])]))]).toThrow("no BSON");
});

test("lengths of nothing, less than nothing and far too much are refused, wherever a length stands", () => {
  const lengths = [0, 1, 4, -1, -2_147_483_648, 2_147_483_647, RECORD.length + 1, 0x00ffffff];
  for (let at = 0; at + 4 <= RECORD.length; at += 1) {
    for (const length of lengths) {
      const changed = Buffer.from(RECORD);
      changed.writeInt32LE(length, at);
      readParts(changed);
    }
  }
});

test("thousands of records with many bytes changed: a typed error each time", () => {
  const random = seeded(2);
  for (let round = 0; round < 3000; round += 1) {
    const changed = Buffer.from(RECORD);
    for (let times = 1 + random(8); times > 0; times -= 1) changed[random(changed.length)] = random(256);
    readParts(changed);
  }
});

test("each bit of provider, version, wrap, nonce and ciphertext counts: flipped, the envelope does not open", () => {
  const good = envelopeAt();
  for (const name of ["wrapped_dek", "nonce", "ciphertext"] as const) {
    for (let bit = 0; bit < good[name].length() * 8; bit += 1) {
      const bytes = Buffer.from(good[name].buffer);
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      const raw = serialize({ _id: 5, totp: { seed: { ...good, [name]: new Binary(bytes, 0) } } });
      expect([name, bit, outcome(() => openRecord(raw))]).toEqual([name, bit, "decryption_failed"]);
    }
  }
  for (let bit = 0; bit < 31; bit += 1) {
    const raw = serialize({ _id: 5, totp: { seed: { ...good, kek_version: new Int32(3 ^ (1 << bit)) } } });
    expect(UNREADABLE).toContain(outcome(() => openRecord(raw)));
  }
});

const JUNK: unknown[] = [
  null,
  true,
  0,
  new Int32(0),
  new Int32(-1),
  new Int32(2),
  new Double(1),
  new Double(Number.NaN),
  Long.fromNumber(1),
  Long.fromString("9223372036854775807"),
  "",
  "env",
  "1",
  new Date(0),
  new ObjectId("65a1b2c3d4e5f60718293a4b"),
  new Binary(new Uint8Array(0), 0),
  new Binary(new Uint8Array(60), 4),
  new Binary(new Uint8Array(12), 0x80),
  new Binary(new Uint8Array(59), 0),
  new Binary(new Uint8Array(61), 0),
  [],
  [new Int32(1)],
  {},
  { $numberInt: "1" },
  { _bsontype: "Binary", sub_type: 0, position: 60 },
];

test("each member of each other BSON type, none, or one too many: an envelope is refused, saying which", () => {
  const good = envelopeAt();
  for (const name of Object.keys(good)) {
    for (const junk of JUNK) {
      const changed = { ...good, [name]: junk };
      // The `{_bsontype}` of a stranger is what a decoded document could hold; BSON itself cannot.
      for (const promoteValues of [true, false]) {
        const plain = typeof junk === "object" && junk !== null && "position" in junk && !(junk instanceof Binary);
        const stored = plain ? changed : deserialize(serialize(changed), { promoteValues });
        let code = "read";
        try {
          readEnvelope(stored, "env");
        } catch (thrown) {
          if (!(thrown instanceof KekError)) throw thrown;
          code = thrown.code;
          expect(thrown.message).toContain(name);
        }
        const harmless =
          (name === "provider" && junk === "env") ||
          (name === "kek_version" && junk instanceof Int32 && junk.value > 0) ||
          (name === "ciphertext" && junk instanceof Binary && junk.sub_type === 0 && junk.length() >= 16);
        const promoted = name === "format" || name === "kek_version" ? promoteValues : false;
        if (!harmless && !promoted) expect([name, junk, code]).toEqual([name, junk, "envelope_invalid"]);
      }
    }
    const { [name as "format"]: _gone, ...less } = good;
    expect(() => readEnvelope(less, "env")).toThrow(`it has no ${name}`);
  }
  for (const key of ["extra", "", "__proto__x", "Format", "constructor", "wrapped_dek ", "$set"])
    expect(() => readEnvelope({ ...good, [key]: 1 }, "env")).toThrow("unknown key");
  const proto = JSON.parse('{"__proto__": {"format": 1}}') as object;
  expect(() => readEnvelope(Object.assign(Object.create(good), proto), "env")).toThrow(KekError);
});

test("what is no subdocument at all is no envelope", () => {
  for (const junk of JUNK) expect(() => readEnvelope(junk, "env")).toThrow(KekError);
  for (const junk of [undefined, 5n, Symbol("x"), () => 1, new Map(), new Proxy({}, {})])
    expect(() => readEnvelope(junk, "env")).toThrow(KekError);
});

test("a ciphertext of 8 MiB and a tag is read, one byte more is not, and one shorter than a tag is not", () => {
  const sized = (length: number) => ({ ...envelopeAt(), ciphertext: new Binary(Buffer.alloc(length), 0) });
  expect(readEnvelope(sized(MAX_PLAINTEXT_BYTES + 16), "env").ciphertext.length).toBe(MAX_PLAINTEXT_BYTES + 16);
  for (const length of [0, 15, MAX_PLAINTEXT_BYTES + 17]) {
    expect(() => readEnvelope(sized(length), "env")).toThrow("ciphertext");
  }
});

test("an envelope with a member twice is refused: who can say which of them MongoDB would change", () => {
  const once = Buffer.from(serialize({ kek_version: new Int32(3) })).subarray(4, -1);
  const inner = Buffer.from(serialize(envelopeAt()));
  const twice = Buffer.concat([inner.subarray(0, -1), once, Buffer.from([0])]);
  twice.writeInt32LE(twice.length, 0);
  const head = Buffer.from(serialize({ _id: 5 })).subarray(0, -1);
  const raw = Buffer.concat([head, Buffer.from([3]), Buffer.from("f\0"), twice, Buffer.from([0])]);
  raw.writeInt32LE(raw.length, 0);
  expect(() => readWrap(raw, "f")).toThrow("it has kek_version twice");
});

test("an _id that cannot be named to MongoDB byte for byte is said to be so, and shown in hex", () => {
  const text = Buffer.from(serialize({ _id: "caf?" }));
  text[text.indexOf("?")] = 0xe9;
  // The deprecated types undefined and DBPointer, inside of an _id.
  const holds = (type: number, ...body: number[]) => {
    const out = Buffer.from([0, 0, 0, 0, 3, ...Buffer.from("_id\0"), 0, 0, 0, 0, type, 97, 0, ...body, 0, 0]);
    out.writeInt32LE(out.length, 0);
    out.writeInt32LE(out.length - 10, 9);
    return out;
  };
  const pointer = holds(0x0c, 2, 0, 0, 0, 120, 0, ...Buffer.alloc(12, 1));
  const late = Buffer.from(serialize({ _id: new Date(0) }));
  late[late.length - 2] = 0x7f;
  for (const idBson of [text, holds(0x06), pointer, late]) {
    expect(() => exactId(idBson)).toThrow("byte for byte");
    expect(idTextOf(idBson)).toBe(`BSON ${idBson.toString("hex")}`);
  }
  expect(idTextOf(serialize({ _id: { b: 1, a: new Double(2) } }))).toBe(
    '{"b":{"$numberInt":"1"},"a":{"$numberDouble":"2.0"}}',
  );
  // However long it is: a line, and another one for another record.
  const long = ["1", "2"].map((end) => serialize({ _id: "x".repeat(100_000) + end }));
  const broken = long.map((idBson) => Buffer.from(idBson).fill(0x80, 13, 14));
  const names = [...long, ...broken].map(idTextOf);
  expect(new Set(names).size).toBe(4);
  for (const name of names) expect(name.length).toBeLessThan(1200);
});

test("wrap, payload and whole envelope each open at their own record, field, collection, install and version only", () => {
  const places = {
    record: placeOf("users", 6, "totp.seed"),
    // The same number, as another BSON type, is another _id.
    type: placeOf("users", new Double(5), "totp.seed"),
    field: placeOf("users", 5, "totp.other"),
    // Lengths stand before parts, so none can lend a byte to its neighbour.
    shifted: placeOf("userst", 5, "otp.seed"),
    collection: placeOf("admins", 5, "totp.seed"),
  };
  const mine = envelopeAt();
  const strangers = [
    ...Object.values(places).map((place) => envelopeAt(place)),
    envelopeAt(PLACE, 3, "9f4c1f0e-1111-4222-8333-444455556666"),
    envelopeAt(PLACE, 4),
  ];
  const opens = (envelope: object) => outcome(() => openRecord(serialize({ _id: 5, totp: { seed: envelope } })));
  expect(opens(mine)).toBe("opened");
  for (const theirs of strangers) {
    const { wrapped_dek, nonce, ciphertext, kek_version } = theirs;
    // Version 4 is under the same KEK here: only the number in the AAD tells the wraps apart.
    const whole = kek_version === 3 || (kek_version as Int32).value === 3;
    if (whole) expect(opens(theirs)).toBe("decryption_failed");
    expect(opens({ ...mine, wrapped_dek })).toBe("decryption_failed");
    if (whole) expect(opens({ ...mine, nonce, ciphertext })).toBe("decryption_failed");
    expect(opens({ ...mine, nonce })).toBe("decryption_failed");
    expect(opens({ ...mine, ciphertext })).toBe("decryption_failed");
  }
  expect(opens({ ...mine, kek_version: new Int32(4) })).toBe("decryption_failed");
  expect(opens({ ...mine, provider: "pkcs11" })).toBe("envelope_invalid");
  // Nor does a wrap pass for a payload, or a field's AAD for a wrap's.
  expect(Buffer.from(fieldAad(INSTALL, PLACE)).equals(Buffer.from(dekAad(INSTALL, "env", 3, PLACE)))).toBe(false);
});
