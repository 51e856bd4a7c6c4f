import type { RotationDoc } from "../protocol/documents.ts";
import { rotationOf, rotationPlaceOf, unreadable } from "./document_reader.ts";
import { atOneMoment, type Session, type Store } from "./store.ts";
import { uniqueIndex } from "./unique_index.ts";

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
  const options = { name: "one_open", partialFilterExpression: { open: true } };
  await uniqueIndex({
    collection: rotations(store),
    name: "kek_rotations",
    keys: { open: 1 },
    options,
    broken: "more than one rotation is open",
  });
}

/**
 * The open rotation if there is one, else the one that ended last. What is newest and what is open are looked at in one moment.
 * @throws KekError `document_invalid`, `unsupported_format`: a document that cannot be read may be the newest.
 */
export async function newestRotation(store: Store, session?: Session): Promise<RotationDoc | undefined> {
  return newestOf(await atOneMoment<FoundRotations>(store, NEWEST, session));
}

/** What `newestOf` decides by, of `kek_rotations`. */
export interface FoundRotations {
  /** The newest two, newest first. */
  newest: unknown[];
  /** Those that must not be there beside the newest; without what may be large, for all of it comes in one answer. */
  odd: unknown[];
}

const NO_NUMBER = (member: string) => ({ [member]: { $not: { $type: ["int", "long", "double"] } } });

/** Stages of `atOneMoment` that find them. */
export const NEWEST = [
  { $lookup: { from: "kek_rotations", pipeline: [{ $sort: { epoch: -1 } }, { $limit: 2 }], as: "newest" } },
  {
    $lookup: {
      from: "kek_rotations",
      // Without a number for its epoch a document has no place in the order, and without one for its _id none can follow it.
      pipeline: [
        { $match: { $or: [{ open: { $exists: true } }, NO_NUMBER("epoch"), NO_NUMBER("_id")] } },
        { $project: { epoch: 1 } },
      ],
      as: "odd",
    },
  },
];

/** @throws KekError as `newestRotation`. */
export function newestOf(found: FoundRotations): RotationDoc | undefined {
  const [newest, before] = found.newest.map(rotationOf);
  for (const { _id } of found.odd.map(rotationPlaceOf)) {
    if (_id !== newest?._id) throw unreadable("kek_rotations", `document ${_id}: it is open, and not the newest`);
  }
  if (before !== undefined && before.epoch === newest?.epoch)
    throw unreadable("kek_rotations", `documents ${before._id} and ${newest._id} have the same epoch, ${newest.epoch}`);
  return newest;
}

export async function readRotation(store: Store, id: number): Promise<RotationDoc | undefined> {
  const doc = await rotations(store).findOne({ _id: id });
  return doc === null ? undefined : rotationOf(doc);
}

/**
 * Whether this rotation has lifted the fence against a version: the one before it still rejected that.
 * From then on a write held back since long ago may arrive, so processes must not give the version up.
 */
export async function hasLifted(store: Store, { epoch, fence }: RotationDoc, version: number): Promise<boolean> {
  if (fence.versions.includes(version)) return false;
  const before = await rotations(store).findOne({ epoch: { $lt: epoch } }, { sort: { epoch: -1 } });
  return before?.fence.versions.includes(version) ?? false;
}

/** Newest first. */
export async function rotationHistory(store: Store, limit: number): Promise<RotationDoc[]> {
  const found = await rotations(store).find({}).sort({ _id: -1 }).limit(limit).toArray();
  return found.map(rotationOf);
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

/**
 * A lease that has not changed for longer than a lease lasts, by the monotonic clock of a process that watched it. Its owner
 * renews no more, also where MongoDB's clock was set back and says that it still runs.
 */
export interface WatchedLease {
  rotation: number;
  token: number;
  expires_at: Date;
}

/**
 * Nobody holds the lease: given back, or run out so long ago that no batch of its owner is in flight.
 * @param watched the lease to take all the same; only while it is exactly that one, since a renewal changes it.
 */
export function leaseFree(graceMs: number, watched?: WatchedLease) {
  const ranOut = { $lt: [{ $add: ["$lease.expires_at", graceMs] }, "$$NOW"] };
  return { $expr: { $or: [{ $eq: ["$lease.owner", null] }, ranOut, ...(watched ? [isExactly(watched)] : [])] } };
}

function isExactly({ rotation, token, expires_at: expiresAt }: WatchedLease) {
  const same = { $_id: rotation, "$lease.token": token, "$lease.expires_at": expiresAt };
  return { $and: Object.entries(same).map(([path, value]) => ({ $eq: [path, value] })) };
}
