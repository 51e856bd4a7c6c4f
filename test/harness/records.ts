import type { Db } from "mongodb";
import type { FieldEncryption } from "../../src/index.ts";

/** The records that tests seed: record i of a collection holds the text `secret i`. Usable outside a test as well. */

interface Holder {
  db: Db;
}

/** Writes secrets from one number up to another. */
export async function seed(
  kek: FieldEncryption,
  { db }: Holder,
  count: number,
  collection = "secrets",
  field = "value",
  first = 0,
): Promise<void> {
  const BATCH = 500;
  for (let start = first; start < first + count; start += BATCH) {
    const ids = Array.from({ length: Math.min(BATCH, first + count - start) }, (_, index) => start + index);
    const documents = await Promise.all(
      ids.map(async (id) => ({
        _id: id as never,
        [field]: await kek.encrypt(`secret ${id}`, { collection, id, field }),
      })),
    );
    await db.collection(collection).insertMany(documents);
  }
}

/** How many of the seeded records open with the right plaintext. */
export async function countRight(
  kek: FieldEncryption,
  { db }: Holder,
  collection = "secrets",
  field = "value",
): Promise<number> {
  let right = 0;
  for await (const record of db.collection<{ _id: number; [key: string]: unknown }>(collection).find({})) {
    const plaintext = await kek.decrypt(record[field], { collection, id: record._id, field });
    if (plaintext.toString("utf8") === `secret ${record._id}`) right += 1;
  }
  return right;
}

/** Versions of the seeded envelopes, as { "1": 10, "2": 90 }. */
export async function versionsOf(
  { db }: Holder,
  collection = "secrets",
  field = "value",
): Promise<Record<string, number>> {
  const rows = await db
    .collection(collection)
    .aggregate<{ _id: number; n: number }>([{ $group: { _id: `$${field}.kek_version`, n: { $sum: 1 } } }])
    .toArray();
  return Object.fromEntries(rows.map((row) => [String(row._id), row.n]));
}
