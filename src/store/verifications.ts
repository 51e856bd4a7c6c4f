import type { Binary } from "mongodb";
import type { WatchToken } from "./change_watch.ts";
import type { ReadPosition } from "./collection_reader.ts";
import { serverCode } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/** `kek_verifications`: how far a long read of the records has come, so that one that was interrupted can be resumed. */

export interface BadRecord {
  collection: string;
  path: string;
  /** The record's _id as canonical extended JSON. */
  id: string;
  reason: string;
}

export interface VerificationDoc {
  _id: "records";
  started_at: Date;
  /** The keys and the rotation that it began with: with others it begins again. */
  basis: string;
  /** Fields done, by `<collection>:<path>`, and the one that it is in. */
  done: string[];
  at: { field: string; after: Binary } | null;
  records: number;
  opened: number;
  failed: number;
  /** The first of those that do not open, up to `at`. */
  bad: BadRecord[];
}

/** An unfinished search of the whole database for envelopes. */
export interface ScanDoc {
  _id: "scan";
  started_at: Date;
  /** As above. */
  basis: string;
  /** For the version that is to be left or destroyed: what was written since the search began. Null when all versions were counted. */
  watch: { version: number; token: WatchToken; written: ScannedPlace[] } | null;
  /** What was read of each collection so far, by the collection's own identity. */
  collections: ScannedCollection[];
}

export interface ScannedCollection {
  /** `CollectionInfo.uuid`; the name where there is none. */
  identity: string;
  name: string;
  done: boolean;
  /** Behind the last record that was read, by the member of the replica set that read it. */
  position: ReadPosition | null;
  records: number;
  bytes: number;
  /** Envelopes up to the position. */
  places: ScannedPlace[];
}

export interface ScannedPlace {
  collection: string;
  path: string;
  version: string;
  /** NaN for what is no number. */
  number: number;
  count: number;
}

interface Docs {
  records: VerificationDoc;
  scan: ScanDoc;
}

export async function readVerification<K extends keyof Docs>(store: Store, kind: K): Promise<Docs[K] | undefined> {
  // Positions are int64, and a double would not name the same record.
  const found = await verifications(store).findOne({ _id: kind }, { promoteLongs: false });
  return (found ?? undefined) as Docs[K] | undefined;
}

/**
 * Whole and at once: counts and findings are those up to the position. Two that run beside each other overwrite one another
 * with as good a position. @returns false when MongoDB does not permit it: reading the records needs less.
 */
export async function saveVerification(store: Store, doc: VerificationDoc | ScanDoc): Promise<boolean> {
  return await ifPermitted(() => verifications(store).replaceOne({ _id: doc._id }, doc, { upsert: true }));
}

/** @returns false when MongoDB does not permit it. Where there is nothing to drop, nothing is made either. */
export async function dropVerification(store: Store, kind: keyof Docs): Promise<boolean> {
  return await ifPermitted(() => verifications(store).deleteOne({ _id: kind }));
}

// ---------------------------------------------------------------------------------------------------------------------

const UNAUTHORIZED = 13;

async function ifPermitted(write: () => Promise<unknown>): Promise<boolean> {
  try {
    await write();
    return true;
  } catch (thrown) {
    if (serverCode(thrown) === UNAUTHORIZED) return false;
    throw thrown;
  }
}

function verifications(store: Store) {
  return store.db.collection<VerificationDoc | ScanDoc>("kek_verifications");
}
