import type { Filter } from "mongodb";
import type { AuditData, AuditEvent } from "../audit/chain.ts";
import { crashPoint } from "../errors/crash_point.ts";
import type { FailedRecord, FenceRecord, FieldCount, PacePoint, RotationDoc } from "../protocol/documents.ts";
import { type Auditor, auditedUnheard } from "./audit_log.ts";
import { type Held, newestRotation, rotations, stillHeld } from "./rotations.ts";
import type { Store } from "./store.ts";

/** What a rotation's document keeps beside its phase: progress for people, and the fence that is to be. */

export interface SavedProgress {
  fields: FieldCount[];
  failed: FailedRecord[];
  /** The points so far; one is added for this moment, by the server's clock. */
  pace: PacePoint[];
  done: number;
}

/** Progress for people; not part of the protocol. @returns the pace with its new point; undefined when the lease is gone. */
export async function saveProgress(
  store: Store,
  held: Held,
  progress: SavedProgress,
): Promise<PacePoint[] | undefined> {
  const { fields, failed, pace, done } = progress;
  // No phase hangs on it, so it is saved after a cancel too; a successor's token ends it.
  const mine = { _id: held.rotation, "lease.token": held.token };
  const grown = { $concatArrays: [{ $literal: pace }, [{ at: "$$NOW", done }]] };
  const saved = await rotations(store).findOneAndUpdate(
    mine,
    [{ $set: { fields: { $literal: fields }, failed: { $literal: failed }, pace: grown } }],
    { returnDocument: "after", projection: { pace: 1 } },
  );
  if (import.meta.crashPoints) crashPoint("progress.saved");
  return saved?.pace;
}

/** The record of what the fence is to be, as one who may change it keeps it. */
export interface FenceRecorder {
  /** @returns false, with nothing changed, when the caller may no longer, or the fence is no longer what was read. */
  record(wanted: FenceRecord): Promise<boolean>;
  /** Whether what was recorded stands, and the caller still may: asked before MongoDB is told, for that knows no condition. */
  stands(): Promise<boolean>;
}

/**
 * The coordinator records what the fence is to be, before MongoDB is told; it answers false when its lease is gone, or when
 * the fence is no longer the one that was read.
 */
export function heldFenceRecorder(store: Store, auditor: Auditor, held: Held, read: FenceRecord): FenceRecorder {
  return recorder(store, auditor, stillHeld(held), read);
}

/**
 * For everybody else: records only while the document, and the fence in it, are still what was read. Two that repair at the
 * same time, or one that repairs while the coordinator sets the fence, cannot overwrite each other.
 */
export function fenceRecorder(
  store: Store,
  auditor: Auditor,
  { _id, epoch, fence }: Pick<RotationDoc, "_id" | "epoch" | "fence">,
): FenceRecorder {
  return recorder(store, auditor, { _id, epoch }, fence);
}

// ---------------------------------------------------------------------------------------------------------------------

function recorder(
  store: Store,
  auditor: Auditor,
  condition: Filter<RotationDoc> & { _id: number },
  read: FenceRecord,
): FenceRecorder {
  let fence = read;
  return {
    async record(wanted) {
      const recorded = await record(store, auditor, { ...condition, fence }, wanted);
      if (recorded) fence = wanted;
      return recorded;
    },
    async stands() {
      if ((await newestRotation(store))?._id !== condition._id) return false;
      return (await rotations(store).countDocuments({ ...condition, fence }, { limit: 1 })) === 1;
    },
  };
}

async function record(
  store: Store,
  auditor: Auditor,
  condition: Filter<RotationDoc> & { _id: number },
  fence: FenceRecord,
): Promise<boolean> {
  const rotation = condition._id;
  // Nobody is woken: what a process compares validators with it reads at its own time, and whom the fence rejects looks by itself.
  const recorded = await auditedUnheard(store, auditor, async (session) => {
    // A rotation that was followed by another has no say any more: whoever slept since would undo the newer fence.
    if ((await newestRotation(store, session))?._id !== rotation) return undefined;
    const changed = await rotations(store).findOneAndUpdate(
      condition,
      { $set: { fence } },
      { session, returnDocument: "before" },
    );
    if (changed === null) return undefined;
    if (import.meta.crashPoints) crashPoint("fence.recording");
    const lifted = changed.fence.versions.filter((version) => !fence.versions.includes(version));
    const before = new Map(changed.fence.collections.map((entry) => [entry.collection, entry.expected]));
    const unfenced = fence.unfenced ?? [];
    const collections = fence.collections
      .filter((entry) => before.get(entry.collection) !== entry.expected && !unfenced.includes(entry.collection))
      .map((entry) => entry.collection);
    const refused = unfenced.filter((name) => changed.fence.unfenced?.includes(name) !== true);
    const events: { event: AuditEvent; data: AuditData; result: true }[] = [];
    if (lifted.length > 0) events.push({ event: "fence.lifted", data: { rotation, versions: lifted }, result: true });
    if (collections.length + refused.length > 0 && fence.versions.length > 0 && lifted.length === 0) {
      const data = { rotation, versions: fence.versions, collections, unfenced };
      events.push({ event: "fence.set", data, result: true });
    }
    return events;
  });
  return recorded !== undefined;
}
