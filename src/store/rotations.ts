import type { AuditData, AuditEvent } from "../audit/chain.ts";
import { type Auditor, audited } from "./audit_log.ts";
import type { FailedRecord, FenceRecord, FieldCount, Phase, RotationDoc } from "./documents.ts";
import { isDuplicateKey } from "./failures.ts";
import { type Member, memberName, removeSilent } from "./heartbeats.ts";
import { type Session, type Store, serverNow } from "./store.ts";
import { claimVersion, switchActive } from "./versions.ts";

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

/** Newest first. */
export async function rotationHistory(store: Store, limit: number): Promise<RotationDoc[]> {
  return await rotations(store).find({}).sort({ _id: -1 }).limit(limit).toArray();
}

export interface NewRotation {
  from: number;
  to: number;
  owner: string;
  leaseMs: number;
  /** How long after its lease ran out a former owner may still have a batch in flight. */
  graceMs: number;
  /** The open rotation that this one replaces, as it was read. */
  replaces: Pick<RotationDoc, "_id" | "epoch"> | undefined;
}

/** @returns undefined when another rotation was first, or what was read has changed since. */
export async function startRotation(
  store: Store,
  auditor: Auditor,
  wanted: NewRotation,
): Promise<RotationDoc | undefined> {
  try {
    const started = await audited(store, auditor, async (session) => {
      const last = await newestRotation(store, session);
      const highest = await rotations(store).findOne({}, { session, sort: { _id: -1 } });
      const events: { event: AuditEvent; data: AuditData; result: RotationDoc }[] = [];
      const now = await serverNow(store, session);
      const doc: RotationDoc = {
        _id: (highest?._id ?? 0) + 1,
        open: true,
        from: wanted.from,
        to: wanted.to,
        phase: 1,
        epoch: (last?.epoch ?? 0) + 1,
        state: "running",
        lease: { owner: wanted.owner, token: 1, expires_at: new Date(now.getTime() + wanted.leaseMs) },
        started_at: now,
        started_by: auditor.actor,
        phase_times: { "1": now },
        fields: [],
        failed: [],
        fence: last?.fence ?? { versions: [], collections: [] },
        ...(wanted.replaces === undefined ? {} : { reverses: wanted.replaces._id }),
      };
      if (wanted.replaces !== undefined) {
        const closed = await rotations(store).updateOne(
          {
            _id: wanted.replaces._id,
            epoch: wanted.replaces.epoch,
            open: true,
            phase: 2,
            ...leaseFree(wanted.graceMs),
          },
          { $set: { state: "reverted" }, $unset: { open: "" }, $inc: { epoch: 1 }, $currentDate: { ended_at: true } },
          { session },
        );
        if (closed.modifiedCount === 0) return undefined;
        doc.epoch += 1;
        events.push({ event: "rotation.reverted", data: { rotation: wanted.replaces._id, by: doc._id }, result: doc });
      }
      if (!(await claimVersion(store, session, wanted.to))) return undefined;
      await rotations(store).insertOne(doc, { session });
      events.push({ event: "rotation.started", data: { rotation: doc._id, from: doc.from, to: doc.to }, result: doc });
      return events;
    });
    return started?.[0];
  } catch (thrown) {
    if (isDuplicateKey(thrown)) return undefined;
    throw thrown;
  }
}

/**
 * Takes over a rotation whose lease ran out `graceMs` ago (the time limit of a batch that its owner may have in flight),
 * or was given back. A cancelled one runs again.
 * @returns undefined while the lease stands, or when what was read has changed.
 */
export async function takeOver(
  store: Store,
  auditor: Auditor,
  seen: RotationDoc,
  owner: string,
  leaseMs: number,
  graceMs: number,
): Promise<RotationDoc | undefined> {
  const taken = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      {
        _id: seen._id,
        epoch: seen.epoch,
        open: true,
        ...leaseFree(graceMs),
      },
      [
        {
          $set: {
            state: "running",
            epoch: { $add: ["$epoch", 1] },
            failed: [],
            lease: {
              owner: { $literal: owner },
              token: { $add: ["$lease.token", 1] },
              expires_at: { $add: ["$$NOW", leaseMs] },
            },
          },
        },
      ],
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    const data = { rotation: doc._id, from: doc.from, to: doc.to, phase: doc.phase, after: seen.state };
    return [{ event: "rotation.resumed", data, result: doc }];
  });
  return taken?.[0];
}

/** @returns the new expiry, or undefined when the lease, or the right to run, is gone. */
export async function renewLease(store: Store, held: Held, leaseMs: number): Promise<Date | undefined> {
  const doc = await rotations(store).findOneAndUpdate(
    stillHeld(held),
    [{ $set: { "lease.expires_at": { $add: ["$$NOW", leaseMs] } } }],
    { returnDocument: "after" },
  );
  return doc?.lease?.expires_at;
}

/** Gives the lease back, so that a successor need not wait. The token stays: it only ever grows. */
export async function releaseLease(store: Store, held: Pick<Held, "rotation" | "token">): Promise<void> {
  await rotations(store).updateOne(
    { _id: held.rotation, "lease.token": held.token },
    { $set: { "lease.owner": null } },
  );
}

/** Compare-and-set of the phase. @returns the document after it, or undefined when this coordinator may not. */
export async function advancePhase(
  store: Store,
  auditor: Auditor,
  held: Held,
  to: Phase,
): Promise<RotationDoc | undefined> {
  const advanced = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      { ...stillHeld(held), phase: (to - 1) as Phase },
      { $set: { phase: to }, $inc: { epoch: 1 }, $currentDate: { [`phase_times.${to}`]: true } },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    return [{ event: "rotation.phase", data: { rotation: doc._id, phase: to, epoch: doc.epoch }, result: doc }];
  });
  return advanced?.[0];
}

/** The end: the new version active, the old one retired, in one transaction. */
export async function completeRotation(store: Store, auditor: Auditor, held: Held): Promise<RotationDoc | undefined> {
  const completed = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      { ...stillHeld(held), phase: 3 },
      {
        $set: { state: "completed", "lease.owner": null as unknown as string },
        $unset: { open: "" },
        $inc: { epoch: 1 },
        $currentDate: { ended_at: true },
      },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    await switchActive(store, session, doc.from, doc.to);
    return [
      { event: "version.activated", data: { version: doc.to, rotation: doc._id }, result: doc },
      { event: "version.retired", data: { version: doc.from, rotation: doc._id }, result: doc },
      { event: "rotation.completed", data: { rotation: doc._id, from: doc.from, to: doc.to }, result: doc },
    ];
  });
  return completed?.[0];
}

/**
 * Cancels what was read, whoever coordinates it. Phase 1 goes back to steady; phase 2 stays open, both versions readable.
 * The first phase of a way back goes back to the unfinished rotation that it came from: records are at both versions.
 */
export async function cancelRotation(
  store: Store,
  auditor: Auditor,
  seen: RotationDoc,
): Promise<RotationDoc | undefined> {
  const cancelled = await audited(store, auditor, async (session) => {
    const closes = seen.phase === 1;
    const doc = await rotations(store).findOneAndUpdate(
      { _id: seen._id, epoch: seen.epoch, state: "running", open: true, phase: { $lt: 3 } as never },
      {
        $set: { state: "cancelled" },
        $inc: { epoch: 1 },
        ...(closes ? { $unset: { open: "" as const }, $currentDate: { ended_at: true as const } } : {}),
      },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    if (closes && doc.reverses !== undefined) {
      await rotations(store).updateOne(
        { _id: doc.reverses },
        { $set: { state: "cancelled", open: true, epoch: doc.epoch + 1, fence: doc.fence }, $unset: { ended_at: "" } },
        { session },
      );
    }
    return [{ event: "rotation.cancelled", data: { rotation: doc._id, phase: doc.phase }, result: doc }];
  });
  return cancelled?.[0];
}

/**
 * Evicts a silent member: on the very beat that was seen, and with the lease still held. Writing to the rotation in the
 * same transaction makes a takeover at that moment conflict, so a coordinator that woke late evicts nobody.
 */
export async function evictMember(
  store: Store,
  auditor: Auditor,
  held: Held,
  member: Member,
  silentMs: number,
): Promise<boolean> {
  const evicted = await audited(store, auditor, async (session) => {
    const mine = await rotations(store).updateOne(stillHeld(held), { $inc: { evictions: 1 } } as never, { session });
    if (mine.matchedCount === 0 || !(await removeSilent(store, session, member, silentMs))) return undefined;
    return [{ event: "process.evicted", data: evictionData(member, held.rotation), result: true }];
  });
  return evicted !== undefined;
}

/** Evicts a silent member while no rotation is open, at an operator's word. */
export async function evictIdle(store: Store, auditor: Auditor, member: Member, silentMs: number): Promise<boolean> {
  const evicted = await audited(store, auditor, async (session) => {
    if (!(await removeSilent(store, session, member, silentMs))) return undefined;
    return [{ event: "process.evicted", data: evictionData(member, null), result: true }];
  });
  return evicted !== undefined;
}

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
    const set = fence.versions.filter((version) => !changed.fence.versions.includes(version));
    const collections = fence.collections.map((entry) => entry.collection);
    const events: { event: AuditEvent; data: AuditData; result: true }[] = [];
    if (lifted.length > 0) events.push({ event: "fence.lifted", data: { rotation, versions: lifted }, result: true });
    if (set.length > 0 || events.length === 0) {
      events.push({ event: "fence.set", data: { rotation, versions: fence.versions, collections }, result: true });
    }
    return events;
  });
  return recorded !== undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

function rotations(store: Store) {
  return store.db.collection<RotationDoc>("kek_rotations");
}

/** The lease is held, by this token, unexpired by the server's clock, and nobody changed phase or state meanwhile. */
function stillHeld(held: Held) {
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
function leaseFree(graceMs: number) {
  const ranOut = { $lt: [{ $add: ["$lease.expires_at", graceMs] }, "$$NOW"] };
  return { $expr: { $or: [{ $eq: ["$lease.owner", null] }, ranOut] } };
}

function evictionData(member: Member, rotation: number | null): AuditData {
  return { process: member._id, name: memberName(member), silent_ms: Math.round(member.age_ms), rotation };
}
