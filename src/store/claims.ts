import { randomUUID } from "node:crypto";
import { crashPoint } from "../errors/crash_point.ts";
import type { Claim } from "../protocol/documents.ts";
import { claimOf } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/**
 * `kek_claims`: who is making the key of a version just now, by server time. Two hosts that ran `pkcs11-init` at once would
 * else leave two keys of one name in a token. A claim runs out by itself; what it cannot prevent is found by looking again.
 */

/** @returns undefined while somebody else has it. @throws KekError `document_invalid`: a claim that says nothing. */
export async function takeClaim(store: Store, name: string, forMs: number): Promise<Claim | undefined> {
  await readClaim(store, name);
  await claims(store).deleteOne({ _id: name, $expr: { $lt: ["$expires_at", "$$NOW"] } });
  try {
    const claim = await claims(store).findOneAndUpdate(
      { _id: name, owner: { $exists: false } },
      [{ $set: { owner: { $literal: randomUUID() }, expires_at: { $add: ["$$NOW", forMs] } } }],
      { upsert: true, returnDocument: "after" },
    );
    return claim ?? undefined;
  } catch (thrown) {
    // The upsert met the claim that stands.
    if (isDuplicateKey(thrown)) return undefined;
    throw thrown;
  }
}

/** Who has it now. @throws KekError `document_invalid`, `unsupported_format`. */
export async function readClaim(store: Store, name: string): Promise<Claim | undefined> {
  const doc = await claims(store).findOne({ _id: name });
  return doc === null ? undefined : claimOf(doc);
}

export async function dropClaim(store: Store, { _id, owner }: Claim): Promise<void> {
  await claims(store).deleteOne({ _id, owner });
  if (import.meta.crashPoints) crashPoint("claim.dropped");
}

// ---------------------------------------------------------------------------------------------------------------------

function claims(store: Store) {
  return store.db.collection<Claim>("kek_claims");
}
