import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  Binary,
  BSONRegExp,
  Code,
  Decimal128,
  Double,
  Long,
  MaxKey,
  MinKey,
  ObjectId,
  serialize,
  Timestamp,
  UUID,
} from "bson";
import type { Db } from "mongodb";
import { exactId, idBsonOf } from "../../src/envelope/raw_record.ts";
import type { FieldEncryption } from "../../src/index.ts";
import { insertMissing } from "../../src/store/whole_records.ts";
import type { TestInstall } from "./program.ts";

/** Records of every kind that an archive must carry, and what is in a database byte for byte. */

export const ODD = "odd";
export const PASSPHRASE = "correct horse battery staple";

/** A passphrase file of mode 0600. */
export function passphraseFile(directory: string, passphrase = PASSPHRASE): string {
  const file = join(directory, `passphrase-${createHash("sha256").update(passphrase).digest("hex").slice(0, 8)}`);
  writeFileSync(file, `${passphrase}\n`, { mode: 0o600 });
  return file;
}

/** _ids of every type that MongoDB takes; the same numbers as other types are other bytes. */
const IDS = [
  1,
  new Double(2),
  Long.fromNumber(3),
  Decimal128.fromString("4.00"),
  "five",
  new ObjectId("65a000000000000000000006"),
  new UUID("00000000-0000-4000-8000-000000000007"),
  new Binary(Buffer.from("eight"), 0x80),
  new Date(9),
  true,
  new Map<string, unknown>([
    ["b", new Double(1)],
    ["2", Long.fromNumber(2)],
  ]),
  new Timestamp({ t: 12, i: 1 }),
  new MinKey(),
  new MaxKey(),
  null,
];

const OTHERS = {
  long: Long.fromString("9007199254740993"),
  double: new Double(1),
  negative: new Double(-0),
  decimal: Decimal128.fromString("1.10"),
  at: new Date(0),
  regex: new BSONRegExp("^a", "im"),
  code: new Code("f()", { x: 1 }),
  time: new Timestamp({ t: 1, i: 2 }),
  old: new Binary(Buffer.from("x"), 2),
  list: [1, { deep: { a: null } }, []],
  "": { "9": 1, "10": 2 },
};

/** `{ undefined: undefined, beyond: <a date that no JavaScript has> }`, the elements alone: no driver writes these now. */
const DEPRECATED = Buffer.from("06756e646566696e656400096265796f6e6400ffffffffffffff7f", "hex");

/** One record an _id, with two fields that may hold secrets: `token`, and `key.pem` in a subdocument. */
export async function seedOdd(kek: FieldEncryption, { db }: TestInstall): Promise<void> {
  const records = await Promise.all(
    IDS.map(async (id, number) => {
      const seal = async (plaintext: Uint8Array | string, field: string) =>
        await kek.encrypt(plaintext, { collection: ODD, id, field });
      const token = [await seal(`token ${number}`, "token"), null, "", undefined, await seal("", "token")][number % 5];
      const pem = number === 4 ? Buffer.alloc(1_500_000, "long ") : Buffer.from([number, 0, 255]);
      const key =
        number % 3 === 2 ? {} : { kind: Long.fromNumber(number), pem: await seal(pem, "key.pem"), after: "it" };
      const document: [string, unknown][] = [
        ["_id", id],
        ...Object.entries(OTHERS),
        ...(token === undefined ? [] : [["token", token] as [string, unknown]]),
        ["key", key],
      ];
      return withDeprecated(serialize(new Map(document)));
    }),
  );
  await insertMissing({ db, client: db.client as never }, ODD, records);
}

/** Every record of a collection as it would be with its secrets in plaintext, in the order of their _ids, each as a hash. */
export async function plainHashes(
  kek: FieldEncryption,
  db: Db,
  collection: string,
  paths: string[],
): Promise<string[]> {
  const { openRecord } = await import("../../src/transfer/open_record.ts");
  const records = (await db
    .collection(collection)
    .find({}, { raw: true, sort: { _id: 1 } })
    .toArray()) as never[];
  return await Promise.all(
    records.map(async (raw: Uint8Array) => {
      const { plain } = await openRecord(raw, collection, paths, (stored, { path }) =>
        kek.decrypt(stored, { collection, id: exactId(idBsonOf(raw)), field: path }),
      );
      return createHash("sha256").update(plain).digest("hex");
    }),
  );
}

/** Each collection's documents byte for byte, its options and indexes; without what beats and tells while nothing changes. */
export async function bytesOf(db: Db): Promise<Record<string, string>> {
  const SPOKEN = ["process_heartbeats", "kek_signals", "audit_log"];
  const found: Record<string, string> = {};
  for (const { name, ...about } of await db.listCollections().toArray()) {
    if (SPOKEN.includes(name)) continue;
    const hash = createHash("sha256").update(JSON.stringify([about, await db.collection(name).indexes()]));
    const documents = await db
      .collection(name)
      .find({}, { raw: true, sort: { _id: 1 } })
      .toArray();
    for (const raw of documents) hash.update(raw as never);
    found[name] = `${documents.length} ${hash.digest("hex")}`;
  }
  return found;
}

// ---------------------------------------------------------------------------------------------------------------------

function withDeprecated(document: Uint8Array): Uint8Array {
  const out = Buffer.concat([document.subarray(0, -1), DEPRECATED, Buffer.from([0])]);
  out.writeInt32LE(out.length, 0);
  return out;
}
