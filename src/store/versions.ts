import { Binary, Long } from "mongodb";
import type { ProviderName } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import type { VersionDoc, VersionState } from "../protocol/documents.ts";
import { MAX_WRAPS } from "../protocol/wrap_limit.ts";
import type { Canary } from "../providers/canary.ts";
import type { KeyDescription } from "../providers/provider.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { versionOf } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";
import { type Session, type Store, serverNow } from "./store.ts";
import { uniqueIndex } from "./unique_index.ts";

/** `kek_versions`: one document a version, its canary, its state. A number is never used again. */

export async function ensureVersions(store: Store): Promise<void> {
  const options = { name: "one_active", partialFilterExpression: { state: "active" } };
  await uniqueIndex({
    collection: versions(store),
    name: "kek_versions",
    keys: { state: 1 },
    options,
    broken: "more than one version is active",
  });
}

/** @throws KekError `document_invalid`, `unsupported_format`: one that cannot be read may be the one that matters. */
export async function readVersions(store: Store, session?: Session): Promise<VersionDoc[]> {
  const found = await versions(store)
    .find({}, session === undefined ? {} : { session })
    .toArray();
  return found.map(versionOf).sort(byNumber);
}

export const byNumber = (one: VersionDoc, other: VersionDoc) => one._id - other._id;

export function canaryOf(doc: VersionDoc): Canary {
  return { canary: doc.canary.buffer, digest: doc.canary_digest.buffer };
}

/** Each process that finds a version unknown at the same moment makes a canary, and one of them is kept. */
const CANARY_WRAPS = 1000;

/** Makes a version known. When another process was first, its canary stands and this call changes nothing. */
export async function stageVersion(
  store: Store,
  {
    auditor,
    version,
    provider,
    canary,
    key,
  }: { auditor: Auditor; version: number; provider: ProviderName; canary: Canary; key?: KeyDescription | undefined },
): Promise<void> {
  try {
    await audited(store, auditor, async (session) => {
      const known = await versions(store).findOne({ _id: version }, { session });
      if (known !== null) return undefined;
      await versions(store).insertOne(
        {
          _id: version,
          provider,
          state: "staged",
          canary: new Binary(canary.canary, 0),
          canary_digest: new Binary(canary.digest, 0),
          ...(key === undefined
            ? {}
            : { key_label: key.label, key_id: new Binary(Buffer.from(key.id, "hex"), 0), mechanism: key.mechanism }),
          wraps: CANARY_WRAPS,
          staged_at: await serverNow(store, session),
          staged_by: auditor.actor,
        },
        { session },
      );
      if (import.meta.crashPoints) crashPoint("version.inserted");
      const data = { version, ...(key === undefined ? {} : { key_label: key.label, key_id: key.id }) };
      return [{ event: "version.staged", data, result: undefined }];
    });
    if (import.meta.crashPoints) crashPoint("stage.done");
  } catch (thrown) {
    if (!isDuplicateKey(thrown)) throw thrown;
  }
}

/** Makes the first version of an install active: only while no version ever was. */
export async function activateFirst(store: Store, auditor: Auditor, version: number): Promise<void> {
  try {
    await audited(store, auditor, async (session) => {
      const used = await versions(store).findOne({ state: { $ne: "staged" } }, { session });
      if (used !== null) return undefined;
      const changed = await versions(store).updateOne(
        { _id: version, state: "staged" },
        { $set: { state: "active" }, $currentDate: { activated_at: true } },
        { session },
      );
      if (changed.modifiedCount === 0) return undefined;
      if (import.meta.crashPoints) crashPoint("first.activating");
      return [{ event: "version.activated", data: { version }, result: undefined }];
    });
    if (import.meta.crashPoints) crashPoint("first.activated");
  } catch (thrown) {
    // Two first processes at once: the unique index lets one version be active.
    if (!isDuplicateKey(thrown)) throw thrown;
  }
}

/** Completion of a rotation, inside its transaction. The old one first: one version is active at any time. */
export async function switchActive(store: Store, session: Session, from: number, to: number): Promise<void> {
  await versions(store).updateOne(
    { _id: from },
    { $set: { state: "retired" }, $currentDate: { retired_at: true } },
    { session },
  );
  if (import.meta.crashPoints) crashPoint("complete.retired");
  await versions(store).updateOne(
    { _id: to },
    [{ $set: { state: "active", activated_at: "$$NOW", first_activated_at: FIRST_ACTIVATED } }],
    { session },
  );
}

/** A key's age counts from its first use, however often it is gone back to. */
const FIRST_ACTIVATED = { $ifNull: ["$first_activated_at", "$activated_at", "$$NOW"] };

/**
 * Claims a version for a rotation, inside its transaction, so that whatever changes the version's state at the same moment
 * conflicts. @returns false when it is in none of these states, or its canary is not the one that was verified.
 */
export async function claimVersion(
  store: Store,
  {
    session,
    version,
    states,
    canary,
  }: { session: Session; version: number; states: readonly VersionState[]; canary?: Binary | undefined },
): Promise<boolean> {
  const claimed = await versions(store).updateOne(
    { _id: version, state: { $in: [...states] }, ...(canary === undefined ? {} : { canary }) },
    { $currentDate: { claimed_at: true } },
    { session },
  );
  return claimed.matchedCount === 1;
}

/** Marks a retired version destroyed, inside a transaction. From then on no rotation can lead to it. */
export async function markDestroyed(store: Store, session: Session, version: number): Promise<boolean> {
  const changed = await versions(store).updateOne(
    { _id: version, state: "retired" },
    { $set: { state: "destroyed" }, $currentDate: { destroyed_at: true } },
    { session },
  );
  return changed.modifiedCount === 1;
}

/** Forgets a staged version, inside a transaction. */
export async function forgetStaged(store: Store, session: Session, version: number): Promise<boolean> {
  return (await versions(store).deleteOne({ _id: version, state: "staged" }, { session })).deletedCount === 1;
}

/** @param canary the one that the copy opened: the version may have been forgotten and made again with another key. */
export async function markBackupVerified(
  store: Store,
  session: Session,
  { _id, canary }: Pick<VersionDoc, "_id" | "canary">,
): Promise<boolean> {
  const marked = { $currentDate: { backup_verified_at: true as const } };
  return (await versions(store).updateOne({ _id, canary }, marked, { session })).matchedCount === 1;
}

/**
 * Counts wraps before they are made. A crash loses the unused rest of a block: the count is never too low.
 * @returns how many of them there was room for, at least one.
 * @throws KekError `wrap_limit_reached` at 2^32 under one version, `version_unknown`.
 */
export async function reserveWraps(store: Store, version: number, count: number): Promise<number> {
  const limit = Long.fromNumber(MAX_WRAPS);
  const before = await versions(store).findOneAndUpdate(
    { _id: version, wraps: { $lt: MAX_WRAPS } },
    [{ $set: { wraps: { $min: [limit, { $add: ["$wraps", count] }] } } }],
    { returnDocument: "before", projection: { wraps: 1 } },
  );
  if (before !== null) return Math.min(count, MAX_WRAPS - Number(before.wraps));
  if ((await versions(store).countDocuments({ _id: version })) === 0)
    throw new KekError("version_unknown", `KEK version ${version} is not known any more`, "certautopilot kek status");
  throw new KekError(
    "wrap_limit_reached",
    `KEK version ${version} has made 2^32 wraps: NIST SP 800-38D (8.3) allows no more under one key`,
    "give every process a key of a new version N, then run: certautopilot kek rotate --to-version=N",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

function versions(store: Store) {
  return store.db.collection<VersionDoc & { claimed_at?: Date }>("kek_versions");
}
