import { type Document, MongoServerError } from "mongodb";
import { DocumentSequence } from "mongodb/lib/cmap/commands.js";
import { idBsonOf, idTextOf } from "../envelope/raw_record.ts";
import { KekError } from "../errors/errors.ts";
import { DOCUMENT_VALIDATION_FAILURE } from "./mongodb_errors.ts";
import { byMajority, type Store } from "./store.ts";

/** Whole records as raw BSON, read and written byte for byte: a decoded value does not always encode to the same bytes. */

/** MongoDB's limit for one record. */
export const MAX_RECORD_BYTES = 16 * 1024 * 1024;
/** So many records a batch, or as many as MongoDB puts into one answer of 16 MB. */
const BATCH = 500;

/** Every record of a collection, in the order of their `_id`s. */
export async function* allRecords(store: Store, collection: string): AsyncGenerator<Uint8Array[]> {
  const cursor = store.db
    .collection(collection)
    .find({}, { hint: { _id: 1 }, sort: { _id: 1 }, batchSize: BATCH, raw: true });
  try {
    while (await cursor.hasNext()) yield cursor.readBufferedDocuments(BATCH) as unknown as Uint8Array[];
  } finally {
    await cursor.close();
  }
}

/** Those of these records that are there, in any order. */
export async function recordsById(store: Store, collection: string, ids: unknown[]): Promise<Uint8Array[]> {
  const cursor = store.db.collection(collection).find({ _id: { $in: ids as never[] } }, { raw: true });
  return (await cursor.toArray()) as unknown as Uint8Array[];
}

/** About how many records a collection has: from its metadata, at once. */
export async function aboutCount(store: Store, collection: string): Promise<number> {
  return await store.db.collection(collection).estimatedDocumentCount();
}

/** About how many bytes the records of these collections have, before compression: from their metadata, at once. */
export async function bytesIn(store: Store, collections: string[]): Promise<number> {
  const sizes = await Promise.all(
    collections.map(async (name) => {
      const stages = [{ $collStats: { storageStats: {} } }, { $project: { size: "$storageStats.size" } }];
      // It is told to people only: without the right to ask, or of a collection that is gone, nothing is.
      const rows = await store.db
        .collection(name)
        .aggregate<{ size?: number }>(stages)
        .toArray()
        .catch(() => []);
      return rows.reduce((total, { size }) => total + Number(size ?? 0), 0);
    }),
  );
  return sizes.reduce((total, size) => total + size, 0);
}

export async function isEmpty(store: Store, collection: string): Promise<boolean> {
  return (await store.db.collection(collection).findOne({}, { projection: { _id: 1 } })) === null;
}

/** The names of a collection's indexes that are not of this program: neither `_id_` nor those over a field's version. */
export async function indexesOfTheirOwn(store: Store, collection: string): Promise<string[]> {
  const indexes = await store.db
    .collection(collection)
    .listIndexes()
    .toArray()
    .catch((thrown) => {
      const NO_SUCH_COLLECTION = 26;
      if (thrown instanceof MongoServerError && thrown.code === NO_SUCH_COLLECTION) return [];
      throw thrown;
    });
  const ours = (key: Document) => Object.keys(key).every((name) => name === "_id" || name.endsWith(".kek_version"));
  return indexes.filter(({ key }) => !ours(key)).map(({ name }) => String(name));
}

/**
 * Inserts those of these records that are not there yet.
 * @returns the positions of those whose `_id` is there already.
 * @throws KekError `write_rejected` naming the first that MongoDB refuses; MongoServerError 121 when a validator does, which may
 * be the fence.
 */
export async function insertMissing(store: Store, collection: string, records: Uint8Array[]): Promise<number[]> {
  // The driver takes documents it serializes itself; this is how it sends its own batches.
  const documents = new DocumentSequence("documents", []);
  for (const record of records) documents.push({}, record);
  const reply = await byMajority(store, "a batch", { insert: collection, documents, ordered: false });
  const errors = (reply["writeErrors"] ?? []) as WriteError[];
  const stopped = errors.filter(({ code }) => code === DOCUMENT_VALIDATION_FAILURE);
  const refused = errors.find((error) => !isThere(error) && error.code !== DOCUMENT_VALIDATION_FAILURE);
  if (refused !== undefined) throw refusedRecord(collection, records[refused.index] as Uint8Array, refused);
  if (stopped.length > 0) {
    const named = idTextOf(idBsonOf(records[(stopped[0] as WriteError).index] as Uint8Array));
    const message = `the validator of ${collection} refuses the record ${named}`;
    throw new MongoServerError({ message, code: DOCUMENT_VALIDATION_FAILURE, writeErrors: stopped });
  }
  return errors.filter(isThere).map(({ index }) => index);
}

// ---------------------------------------------------------------------------------------------------------------------

const DUPLICATE_KEY = 11_000;

interface WriteError {
  index: number;
  code: number;
  keyPattern?: Document;
  errInfo?: Document;
}

function isThere({ code, keyPattern }: WriteError): boolean {
  return code === DUPLICATE_KEY && keyPattern !== undefined && Object.keys(keyPattern).join() === "_id";
}

/** MongoDB's own words may hold the record's values: they are left out. */
function refusedRecord(collection: string, record: Uint8Array, { code, keyPattern }: WriteError): KekError {
  const why =
    keyPattern === undefined ? `code ${code}` : `it is not the only one with its ${Object.keys(keyPattern).join(", ")}`;
  return new KekError(
    "write_rejected",
    `MongoDB refuses the record ${idTextOf(idBsonOf(record))} of ${collection}: ${why}`,
    "see the indexes and rules that this collection was given here; then run the same command again: it continues from here",
  );
}
