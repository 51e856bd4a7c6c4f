import type { Binary } from "mongodb";
import { serverCode } from "./failures.ts";
import type { Store } from "./store.ts";

/** `kek_verifications`: how far a `kek verify --records` has come, so that one that was interrupted can be gone on with. */

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
  /** The keys and the rotation that it began with: with others it begins anew. */
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

export async function readVerification(store: Store): Promise<VerificationDoc | undefined> {
  return (await verifications(store).findOne({ _id: "records" })) ?? undefined;
}

/**
 * Whole and at once: counts and findings are those up to the position. Two that run beside each other overwrite one another
 * with as good a position. @returns false when MongoDB does not permit it: reading the records needs less.
 */
export async function saveVerification(store: Store, doc: VerificationDoc): Promise<boolean> {
  return await ifPermitted(() => verifications(store).replaceOne({ _id: "records" }, doc, { upsert: true }));
}

/** @returns false when MongoDB does not permit it. Where there is nothing to drop, nothing is made either. */
export async function dropVerification(store: Store): Promise<boolean> {
  return await ifPermitted(() => verifications(store).deleteOne({ _id: "records" }));
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
  return store.db.collection<VerificationDoc>("kek_verifications");
}
