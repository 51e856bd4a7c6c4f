import type { RotationDoc } from "./documents.ts";
import type { Session, Store } from "./store.ts";

/**
 * `kek_rotations`: every change is conditional on what the caller believes: lease token, epoch, state.
 * The epoch grows over all rotations together, so the document with the highest one is the newest word.
 */

/** What a coordinator holds: it must still be true at each write. */
export interface Held {
  rotation: number;
  token: number;
  epoch: number;
}

export async function ensureRotations(store: Store): Promise<void> {
  await rotations(store).createIndex(
    { open: 1 },
    { name: "one_open", unique: true, partialFilterExpression: { open: true } },
  );
}

/** The open rotation if there is one, else the one that ended last. */
export async function newestRotation(store: Store, session?: Session): Promise<RotationDoc | undefined> {
  const options = session === undefined ? {} : { session };
  return (await rotations(store).findOne({}, { ...options, sort: { epoch: -1 } })) ?? undefined;
}

export async function readRotation(store: Store, id: number): Promise<RotationDoc | undefined> {
  return (await rotations(store).findOne({ _id: id })) ?? undefined;
}

/**
 * Whether this rotation has lifted the fence against its own target: the one before it still rejected that version.
 * From then on a write held back since long ago may arrive, so processes must not give the version up.
 */
export async function hasLiftedItsFence(store: Store, { epoch, to, fence }: RotationDoc): Promise<boolean> {
  if (fence.versions.includes(to)) return false;
  const before = await rotations(store).findOne({ epoch: { $lt: epoch } }, { sort: { epoch: -1 } });
  return before?.fence.versions.includes(to) ?? false;
}

/** Newest first. */
export async function rotationHistory(store: Store, limit: number): Promise<RotationDoc[]> {
  return await rotations(store).find({}).sort({ _id: -1 }).limit(limit).toArray();
}

/** For the other files about rotations in this folder. */
export function rotations(store: Store) {
  return store.db.collection<RotationDoc>("kek_rotations");
}

/** The lease is held, by this token, unexpired by the server's clock, and nobody changed phase or state meanwhile. */
export function stillHeld(held: Held) {
  return {
    _id: held.rotation,
    epoch: held.epoch,
    state: "running" as const,
    "lease.token": held.token,
    "lease.owner": { $ne: null },
    $expr: { $gt: ["$lease.expires_at", "$$NOW"] },
  };
}

/** Nobody holds the lease: given back, or run out so long ago that no batch of its owner is in flight. */
export function leaseFree(graceMs: number) {
  const ranOut = { $lt: [{ $add: ["$lease.expires_at", graceMs] }, "$$NOW"] };
  return { $expr: { $or: [{ $eq: ["$lease.owner", null] }, ranOut] } };
}
