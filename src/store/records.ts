import { DocumentSequence } from "mongodb/lib/cmap/commands.js";
import type { FieldName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import { DOCUMENT_VALIDATION_FAILURE } from "./failures.ts";
import { versionKey } from "./fields.ts";
import { type Rewrap, rewrapStatements } from "./rewrap_statement.ts";
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

/**
 * Every record that has the field, whole envelopes, as raw BSON, in the order of their `_id`s.
 * @param after leaves out the records up to this `_id`. Of whatever types: plain `$gt` would compare within one type only.
 */
export async function* envelopesOf(
  store: Store,
  field: FieldName,
  batchSize: number,
  after?: { id: unknown },
): AsyncGenerator<{ count: number; bytes: Uint8Array }> {
  const beyond = after === undefined ? {} : { $expr: { $gt: ["$_id", { $literal: after.id }] } };
  const cursor = store.db.collection(field.collection).find(
    { [field.path]: { $exists: true }, ...beyond },
    {
      projection: { _id: 1, [field.path]: 1 },
      hint: { _id: 1 },
      sort: { _id: 1 },
      batchSize,
      raw: true,
    },
  );
  yield* batches(cursor as never, batchSize);
}

/** The first `_id`s of a field's records at one version, each as the raw BSON of `{_id}`. */
export async function idsAt(store: Store, field: FieldName, version: number, limit: number): Promise<Uint8Array[]> {
  const key = versionKey(field.path);
  const cursor = store.db
    .collection(field.collection)
    .find(
      { [key]: version },
      { projection: { _id: 1 }, hint: { [key]: 1, _id: 1 }, sort: { _id: 1 }, limit, raw: true },
    );
  return (await cursor.toArray()) as unknown as Uint8Array[];
}

export interface RewrapOutcome {
  done: number;
  /** Refused by the collection's own validator: position in the batch and MongoDB's words. */
  rejected: { index: number; reason: string }[];
}

/** Records in one update statement: most of what mongod spends on a statement it spends once for all of these. */
const GROUP = 32;

/**
 * One conditional update a record: only where the version and the wrap are still those that were read.
 * @param together records in one command; the next one is sent when MongoDB has confirmed the one before.
 * @param limitMs MongoDB gives up after this time, in all; what it had done stays done.
 */
export async function applyRewraps(
  store: Store,
  field: FieldName,
  from: number,
  to: number,
  rewraps: Rewrap[],
  { together, limitMs }: { together: number; limitMs: number },
): Promise<RewrapOutcome> {
  const deadline = performance.now() + limitMs;
  const outcome: RewrapOutcome = { done: 0, rejected: [] };
  for (let start = 0; start < rewraps.length; start += together) {
    const part = rewraps.slice(start, start + together);
    const { done, rejected } = await applyTogether(store, field, from, to, part, deadline);
    outcome.done += done;
    outcome.rejected.push(...rejected.map(({ index, reason }) => ({ index: start + index, reason })));
    // What the limit leaves no time for is found again by the next pass.
    if (performance.now() > deadline) break;
  }
  return outcome;
}

// ---------------------------------------------------------------------------------------------------------------------

/** All in one command. */
async function applyTogether(
  store: Store,
  field: FieldName,
  from: number,
  to: number,
  rewraps: Rewrap[],
  deadline: number,
): Promise<RewrapOutcome> {
  const statement = rewrapStatements(field.path, from, to);
  const groups = chunks(rewraps, GROUP);
  const together = await update(store, field, groups.map(statement), leftUntil(deadline));
  const outcome: RewrapOutcome = { done: together.modified, rejected: [] };
  // A group in which one record is refused stops there: its records are tried again one by one, to find out which.
  for (const { index } of together.errors) {
    const first = index * GROUP;
    const group = groups[index] ?? [];
    if (performance.now() > deadline) break;
    const apart = await update(
      store,
      field,
      group.map((rewrap) => statement([rewrap])),
      leftUntil(deadline),
    );
    outcome.done += apart.modified;
    for (const error of apart.errors) {
      const reason =
        error.code === DOCUMENT_VALIDATION_FAILURE
          ? "the record does not satisfy its collection's validator (code 121)"
          : `MongoDB refused the update (code ${error.code}): ${error.errmsg}`;
      outcome.rejected.push({ index: first + error.index, reason });
    }
  }
  return outcome;
}

/** Whole milliseconds; MongoDB takes 0 for no limit at all. */
const leftUntil = (deadline: number) => Math.max(1, Math.floor(deadline - performance.now()));

interface WriteError {
  index: number;
  code: number;
  errmsg: string;
}

async function update(
  store: Store,
  field: FieldName,
  statements: Uint8Array[],
  limitMs: number,
): Promise<{ modified: number; errors: WriteError[] }> {
  // The driver takes documents it serializes itself; this is how it sends its own batches.
  const updates = new DocumentSequence("updates", []);
  for (const statement of statements) updates.push({}, statement);
  const reply = await store.db.command({
    update: field.collection,
    ordered: false,
    updates,
    writeConcern: { w: "majority", j: true, wtimeout: limitMs },
    maxTimeMS: limitMs,
  });
  if (reply["writeConcernError"] !== undefined) {
    throw new KekError("mongodb_away", "MongoDB did not confirm a batch by a majority in time", "it is tried again");
  }
  return { modified: Number(reply["nModified"]), errors: (reply["writeErrors"] ?? []) as WriteError[] };
}

function chunks<T>(items: T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, at) => items.slice(at * size, (at + 1) * size));
}

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
