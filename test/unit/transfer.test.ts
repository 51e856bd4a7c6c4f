import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { Binary, deserialize, serialize } from "bson";
import { toStored } from "../../src/envelope/envelope.ts";
import { decodeHeader, encodeHeader, type Header } from "../../src/transfer/archive_format.ts";
import { CollectionSnapshot } from "../../src/transfer/collection_snapshot.ts";
import { ContentsDigest, differences } from "../../src/transfer/contents_digest.ts";
import { secretsOf } from "../../src/transfer/plain_record.ts";
import { findFileKey, sealed, unsealed } from "../../src/transfer/sealed_stream.ts";
import { codeOf } from "../harness/codes.ts";

/** What an archive is made of: counts and digests, what was written meanwhile, and the sealed stream. */

const envelope = (nonce: number, version = 1) =>
  toStored({
    provider: "env",
    version,
    wrappedDek: randomBytes(60),
    nonce: Buffer.alloc(12, nonce),
    ciphertext: Buffer.alloc(20, nonce),
  });

test("a second look counts what was changed, added and removed; a rewrap is none of these", async () => {
  const look = new CollectionSnapshot(["value"], "env");
  for (const _id of [1, 2, 3, 4]) look.add(serialize({ _id, value: envelope(_id), name: "n" }));
  const second = [
    [{ _id: 1, value: envelope(1, 2), name: "n" }],
    [
      { _id: 2, value: envelope(2), name: "m" },
      { _id: 3, value: envelope(9), name: "n" },
      { _id: 5, value: null },
    ],
  ].map((records) => records.map((record) => serialize(record)));
  const batches: number[] = [];
  const given = (async function* () {
    yield* second;
  })();
  const changes = await look.compare(given, (records) => batches.push(records));
  expect([changes, batches]).toEqual([{ changed: 2, added: 1, removed: 1 }, [1, 3]]);
});

test("digests do not depend on the order, and differ by any byte, place or number", () => {
  const header = {
    digest_key: randomBytes(32),
    collections: ["c"],
    fields: [{ collection: "c", path: "p" }],
  };
  const of = (...members: [string, number][]) => {
    const digest = new ContentsDigest(header);
    for (const [text, _id] of members) {
      const plaintext = Buffer.from(text);
      const record = serialize({ _id, p: new Binary(plaintext) });
      digest.add("c", record, serialize({ _id }), [{ path: "p", plaintext }]);
    }
    return digest.contents;
  };
  const whole = of(["a", 1], ["b", 2]);
  expect(differences(of(["b", 2], ["a", 1]), whole)).toEqual([]);
  expect(differences(of(["b", 1], ["a", 2]), whole)).toEqual([
    "c: the records are not those of the archive",
    "c:p: the secrets are not those of the archive",
  ]);
  expect(differences(of(["a", 1]), whole)).toEqual(["c: 1 records, not 2", "c:p: 1 secrets, not 2"]);
});

test("an archive that would reach the install's own collections, or is of a later format, is none", async () => {
  const header: Header = {
    archive_id: "c7e5a5b0-41d4-4b1c-9a52-3d7a1c5a9f10",
    install_id: "c7e5a5b0-41d4-4b1c-9a52-3d7a1c5a9f11",
    provider: "env",
    exported_at: new Date(0),
    exported_by: "somebody",
    digest_key: randomBytes(32),
    fields: [{ collection: "users", path: "token" }],
    collections: ["users"],
  };
  expect(decodeHeader(encodeHeader(header), "file")).toEqual(header);
  const codeFor = (over: Partial<Header>) => codeOf(() => decodeHeader(encodeHeader({ ...header, ...over }), "file"));
  expect(await codeFor({ collections: ["users", "kek_install"] })).toBe("archive_damaged");
  expect(await codeFor({ fields: [{ collection: "audit_log", path: "mac" }] })).toBe("archive_damaged");
  const garbage = Buffer.from([10, 0, 0, 0, 255, 1, 2, 3, 4, 0]);
  expect(await codeOf(() => decodeHeader(garbage, "file"))).toBe("archive_damaged");
  const later = serialize({ ...deserialize(encodeHeader(header)), format: 2 });
  expect(await codeOf(() => decodeHeader(later, "file"))).toBe("archive_unreadable");
});

test("at a field's path of an archived record stands a secret or nothing: whatever else is there would be stored as it is", async () => {
  const found = (value: unknown) => secretsOf(serialize({ _id: 1, s: value }), ["s"]).secrets.length;
  expect([found(new Binary(Buffer.from("a"))), found(new Binary(Buffer.alloc(0))), found(null), found("")]).toEqual([
    1, 1, 0, 0,
  ]);
  for (const value of ["a secret in plaintext", { kek_version: 1 }, 1, new Binary(Buffer.from("a"), 4)])
    expect(await codeOf(() => found(value))).toBe("envelope_invalid");
});

async function* pieces(...all: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* all;
}

async function whole(from: AsyncGenerator<Uint8Array>): Promise<Buffer> {
  const read: Uint8Array[] = [];
  for await (const piece of from) read.push(piece);
  return Buffer.concat(read);
}

test("what is sealed opens in pieces of any size, the plaintext is zeroed, and an error comes through as it was", async () => {
  const { generateX25519Identity, identityToRecipient } = await import("age-encryption");
  const identity = await generateX25519Identity();
  const seal = { recipients: [await identityToRecipient(identity)] };
  const plain = Array.from({ length: 40 }, (_, index) => randomBytes(index * 7001));
  const expected = Buffer.concat(plain);
  const file = await whole(sealed(pieces(...plain), seal));
  expect(plain.every((piece) => piece.every((byte) => byte === 0))).toBe(true);
  const inPieces = (size: number) =>
    pieces(
      ...Array.from({ length: Math.ceil(file.length / size) }, (_, at) => file.subarray(at * size, (at + 1) * size)),
    );
  for (const size of [1009, 65_536, file.length]) {
    const key = await findFileKey(inPieces(size), "file", { identities: [identity] });
    expect((await whole(await unsealed(inPieces(size), "file", key))).equals(expected)).toBe(true);
  }
  const failing = async function* (): AsyncGenerator<Uint8Array> {
    yield randomBytes(10);
    throw new RangeError("as it was");
  };
  expect(whole(sealed(failing(), seal))).rejects.toThrow(new RangeError("as it was"));
  // Whether it ends well, fails, or nobody wants the rest: no plaintext stays behind.
  for (const end of ["well", "failing", "unwanted"]) {
    const given: Uint8Array[] = [];
    const source = async function* () {
      for (let at = 0; at < 5; at += 1) {
        given.push(new Uint8Array(100_000).fill(7));
        yield given.at(-1) as Uint8Array;
      }
      if (end === "failing") throw new RangeError("as it was");
    };
    const out = sealed(source(), seal);
    if (end === "unwanted") for await (const _ of out) break;
    else await whole(out).catch(() => undefined);
    expect([end, given.length > 0, given.every((piece) => piece.every((byte) => byte === 0))]).toEqual([
      end,
      true,
      true,
    ]);
  }
  const key = await findFileKey(inPieces(5000), "file", { identities: [identity] });
  const cut = unsealed(pieces(file.subarray(0, 70_000)), "file", key).then(whole);
  expect(await codeOf(() => cut)).toBe("archive_damaged");
});
