import { Binary, Int32 } from "mongodb";
import type { FieldName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import { versionKey } from "./fields.ts";
import type { Store } from "./store.ts";

/** Reads and rewrites the wraps of records. Nothing else of a record is ever read for a rewrap, or written. */

/**
 * Every record of a field at one version, as raw BSON documents one behind the other, a batch at a time.
 * A cursor over the index: records that a rewrap moves away from the version are behind it, never seen twice.
 */
export async function* wrapsAt(
  store: Store,
  field: FieldName,
  version: number,
  batchSize: number,
): AsyncGenerator<{ count: number; bytes: Uint8Array }> {
  const { path } = field;
  const key = versionKey(path);
  const cursor = store.db.collection(field.collection).find(
    { [key]: version },
    {
      projection: { _id: 1, [`${path}.provider`]: 1, [key]: 1, [`${path}.wrapped_dek`]: 1 },
      hint: { [key]: 1, _id: 1 },
      sort: { _id: 1 },
      batchSize,
      raw: true,
    },
  );
  yield* batches(cursor as never, batchSize);
}

/** Every record that has the field, whole envelopes, as raw BSON. */
export async function* envelopesOf(
  store: Store,
  field: FieldName,
  batchSize: number,
): AsyncGenerator<{ count: number; bytes: Uint8Array }> {
  const cursor = store.db
    .collection(field.collection)
    .find(
      { [field.path]: { $exists: true } },
      { projection: { _id: 1, [field.path]: 1 }, sort: { _id: 1 }, batchSize, raw: true },
    );
  yield* batches(cursor as never, batchSize);
}

export interface Rewrap {
  id: unknown;
  oldWrap: Uint8Array;
  newWrap: Uint8Array;
}

export interface RewrapOutcome {
  done: number;
  /** Refused by the collection's own validator: position in the batch and MongoDB's words. */
  rejected: { index: number; reason: string }[];
}

/**
 * One conditional update a record, all in one command: only where the version and the wrap are still those that were read.
 * @param limitMs MongoDB gives up after this time; what it had done stays done.
 */
export async function applyRewraps(
  store: Store,
  field: FieldName,
  from: number,
  to: number,
  rewraps: Rewrap[],
  limitMs: number,
): Promise<RewrapOutcome> {
  const key = versionKey(field.path);
  const wrapKey = `${field.path}.wrapped_dek`;
  const reply = await store.db.command({
    update: field.collection,
    ordered: false,
    updates: rewraps.map(({ id, oldWrap, newWrap }) => ({
      q: { _id: id, [key]: new Int32(from), [wrapKey]: new Binary(oldWrap, 0) },
      u: { $set: { [key]: new Int32(to), [wrapKey]: new Binary(newWrap, 0) } },
    })),
    writeConcern: { w: "majority", j: true, wtimeout: limitMs },
    maxTimeMS: limitMs,
  });
  const errors = (reply["writeErrors"] ?? []) as { index: number; code: number; errmsg: string }[];
  if (reply["writeConcernError"] !== undefined) {
    throw new KekError("mongodb_away", "MongoDB did not confirm a batch by a majority in time", "it is tried again");
  }
  return {
    done: Number(reply["nModified"]),
    rejected: errors.map((error) => ({
      index: error.index,
      reason: `MongoDB refused the update (code ${error.code}): ${error.errmsg}`,
    })),
  };
}

// ---------------------------------------------------------------------------------------------------------------------

interface RawCursor {
  hasNext(): Promise<boolean>;
  readBufferedDocuments(count: number): Uint8Array[];
  close(): Promise<void>;
}

async function* batches(cursor: RawCursor, batchSize: number): AsyncGenerator<{ count: number; bytes: Uint8Array }> {
  try {
    while (await cursor.hasNext()) {
      const documents = cursor.readBufferedDocuments(batchSize);
      yield { count: documents.length, bytes: joined(documents) };
    }
  } finally {
    await cursor.close();
  }
}

/** A buffer of its own, never a slice of Node's pool: it is handed over to a worker thread whole. */
function joined(documents: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(documents.reduce((sum, document) => sum + document.length, 0));
  let at = 0;
  for (const document of documents) {
    bytes.set(document, at);
    at += document.length;
  }
  return bytes;
}
