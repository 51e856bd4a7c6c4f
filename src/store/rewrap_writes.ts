import { DocumentSequence } from "mongodb/lib/cmap/commands.js";
import type { FieldName } from "../config/config.ts";
import { versionKey } from "../protocol/version_path.ts";
import { DOCUMENT_VALIDATION_FAILURE } from "./mongodb_errors.ts";
import { type Rewrap, rewrapStatements } from "./rewrap_statement.ts";
import type { LeaseEnd } from "./rotation_lease.ts";
import { byMajority, type Store } from "./store.ts";
import { byIndex, readIndexState } from "./version_index.ts";

/** Reads and rewrites the wraps of records. Nothing else of a record is ever read for a rewrap, or written. */

/** Some records of a field, as raw BSON documents one behind the other. */
export interface Portion {
  count: number;
  bytes: Uint8Array;
  /** Whether MongoDB was asked for it: a batch may be given out in several portions. */
  asked: boolean;
}

/**
 * Every record of a field at one version, a portion at a time.
 * By the index, records that a rewrap moves away from the version are behind the cursor, never seen twice; an update leaves a
 * record where it lies, so the same is true of a read of the whole collection.
 * @param batchSize records that MongoDB is asked for at once. @param portion how many of them are wanted next, at most.
 */
export async function* wrapsAt(
  store: Store,
  {
    field,
    version,
    batchSize,
    portion = () => batchSize,
  }: { field: FieldName; version: number; batchSize: number; portion?: (() => number) | undefined },
): AsyncGenerator<Portion> {
  const { path } = field;
  const key = versionKey(path);
  const index = await readIndexState(store, field);
  const order = index.state === "whole" ? { hint: index.name, sort: { _id: 1 } } : { hint: { $natural: 1 } };
  const cursor = store.db.collection(field.collection).find({ [key]: version }, {
    projection: { _id: 1, [`${path}.provider`]: 1, [key]: 1, [`${path}.wrapped_dek`]: 1 },
    collation: { locale: "simple" },
    batchSize,
    raw: true,
    ...order,
  } as never);
  yield* portions(cursor as never, portion);
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
): AsyncGenerator<Portion> {
  const beyond = after === undefined ? {} : { $expr: { $gt: ["$_id", { $literal: after.id }] } };
  const cursor = store.db.collection(field.collection).find(
    { [field.path]: { $exists: true }, ...beyond },
    {
      projection: { _id: 1, [field.path]: 1 },
      // Not in the order of a collation that the collection may have: positions are compared without one.
      collation: { locale: "simple" },
      sort: { _id: 1 },
      allowDiskUse: true,
      batchSize,
      raw: true,
    },
  );
  yield* portions(cursor as never, () => batchSize);
}

/** The first `_id`s of a field's records at one version, each as the raw BSON of `{_id}`. */
export async function idsAt(store: Store, field: FieldName, version: number, limit: number): Promise<Uint8Array[]> {
  const key = versionKey(field.path);
  const wanted = { projection: { _id: 1 }, sort: { _id: 1 }, limit, raw: true } as const;
  const found = await byIndex(store, field, (how) =>
    store.db
      .collection(field.collection)
      .find({ [key]: version }, { ...wanted, ...how } as never)
      .toArray(),
  );
  return found as unknown as Uint8Array[];
}

export interface RewrapOutcome {
  done: number;
  /** Refused by the collection's own validator: position in the batch and MongoDB's words. */
  rejected: { index: number; reason: string }[];
}

/** Records in one update statement: most of what mongod spends on a statement it spends once for all of these. */
const GROUP = 64;

/**
 * One conditional update a record: only where the version and the wrap are still those that were read. All in one command.
 * @param limitMs MongoDB gives up after this time, in all; what it had done stays done.
 * @param lease its end as it is known when the command is sent: whoever wakes after it moves nothing any more.
 */
export async function applyRewraps(
  store: Store,
  {
    field,
    from,
    to,
    rewraps,
    limitMs,
    lease,
  }: { field: FieldName; from: number; to: number; rewraps: Rewrap[]; limitMs: number; lease: Pick<LeaseEnd, "date"> },
): Promise<RewrapOutcome> {
  const deadline = performance.now() + limitMs;
  const statement = rewrapStatements(field.path, from, to, lease.date);
  const groups = chunks(rewraps, GROUP);
  const together = await update(store, field, groups.map(statement), limitMs);
  // A group in which one record is refused stops there: its records are tried again, each in a statement of its own, to find
  // out which. Those of all groups at once, for each command waits for a majority.
  const again = together.errors.flatMap(({ index }) =>
    (groups[index] ?? []).map((rewrap, at) => ({ rewrap, index: index * GROUP + at })),
  );
  const leftMs = Math.floor(deadline - performance.now());
  // What the limit leaves no time for is found again by the next pass.
  if (again.length === 0 || leftMs < 1) return { done: together.modified, rejected: [] };
  const statements = again.map(({ rewrap }) => statement([rewrap]));
  const apart = await update(store, field, statements, leftMs);
  return {
    done: together.modified + apart.modified,
    rejected: apart.errors.map((error) => ({ index: again[error.index]?.index as number, reason: reasonOf(error) })),
  };
}

// ---------------------------------------------------------------------------------------------------------------------

interface WriteError {
  index: number;
  code: number;
  errmsg: string;
}

function reasonOf({ code, errmsg }: WriteError): string {
  return code === DOCUMENT_VALIDATION_FAILURE
    ? "the record does not satisfy its collection's validator (code 121)"
    : `MongoDB refused the update (code ${code}): ${errmsg}`;
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
  const reply = await byMajority(store, "a batch", { update: field.collection, ordered: false, updates }, limitMs);
  return { modified: Number(reply["nModified"]), errors: (reply["writeErrors"] ?? []) as WriteError[] };
}

function chunks<T>(items: T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, at) => items.slice(at * size, (at + 1) * size));
}

interface RawCursor {
  hasNext(): Promise<boolean>;
  bufferedCount(): number;
  readBufferedDocuments(count: number): Uint8Array[];
  close(): Promise<void>;
}

async function* portions(cursor: RawCursor, portion: () => number): AsyncGenerator<Portion> {
  try {
    for (;;) {
      const asked = cursor.bufferedCount() === 0;
      if (!(await cursor.hasNext())) return;
      const documents = cursor.readBufferedDocuments(portion());
      yield { count: documents.length, bytes: joined(documents), asked };
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
