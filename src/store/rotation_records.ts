import type { AuditData, AuditEvent } from "../audit/chain.ts";
import { type Auditor, audited } from "./audit_log.ts";
import type { FailedRecord, FenceRecord, FieldCount } from "./documents.ts";
import { type Held, rotations, stillHeld } from "./rotations.ts";
import type { Store } from "./store.ts";

/** What a rotation's document keeps beside its phase: progress for people, and the fence that is to be. */

/** Progress for people; not part of the protocol. @returns false when the lease is gone. */
export async function saveProgress(
  store: Store,
  held: Held,
  fields: FieldCount[],
  failed: FailedRecord[],
): Promise<boolean> {
  return (await rotations(store).updateOne(stillHeld(held), { $set: { fields, failed } })).matchedCount === 1;
}

/** Records what the fence is to be, before MongoDB is told. */
export async function recordFence(
  store: Store,
  auditor: Auditor,
  rotation: number,
  condition: { token?: number; epoch?: number },
  fence: FenceRecord,
): Promise<boolean> {
  const recorded = await audited(store, auditor, async (session) => {
    const changed = await rotations(store).findOneAndUpdate(
      {
        _id: rotation,
        ...(condition.token === undefined
          ? {}
          : stillHeld({ rotation, token: condition.token, epoch: condition.epoch ?? 0 })),
        ...(condition.epoch === undefined ? {} : { epoch: condition.epoch }),
      },
      { $set: { fence } },
      { session, returnDocument: "before" },
    );
    if (changed === null) return undefined;
    const lifted = changed.fence.versions.filter((version) => !fence.versions.includes(version));
    const before = new Map(changed.fence.collections.map((entry) => [entry.collection, entry.expected]));
    const collections = fence.collections
      .filter((entry) => before.get(entry.collection) !== entry.expected)
      .map((entry) => entry.collection);
    const events: { event: AuditEvent; data: AuditData; result: true }[] = [];
    if (lifted.length > 0) events.push({ event: "fence.lifted", data: { rotation, versions: lifted }, result: true });
    if (collections.length > 0 && fence.versions.length > 0 && lifted.length === 0) {
      events.push({
        event: "fence.set",
        data: { rotation, versions: fence.versions, collections, unfenced: fence.unfenced ?? [] },
        result: true,
      });
    }
    return events;
  });
  return recorded !== undefined;
}
