import type { Binary } from "mongodb";
import type { AuditData, AuditEvent } from "../audit/chain.ts";
import { crashPoint } from "../errors/crash_point.ts";
import type { FieldCount, RotationDoc } from "../protocol/documents.ts";
import {
  cancelEnds,
  firstPhase,
  LAST_PHASE,
  NOT_CANCELLABLE_FROM,
  phaseBefore,
  REVERSIBLE_PHASE,
  statesToStart,
  switchesActiveVersion,
} from "../protocol/transitions.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { rotationOf } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";
import { type Held, leaseFree, newestRotation, rotations, stillHeld, type WatchedLease } from "./rotations.ts";
import { type Store, serverNow } from "./store.ts";
import { claimVersion, switchActive } from "./versions.ts";

/**
 * What moves a rotation: start, next phase, completion, cancellation. Each with its audit event, in one transaction, which
 * is given up when the document that comes of it cannot be read: somebody else wrote into it.
 */

export interface NewRotation {
  from: number;
  to: number;
  owner: string;
  leaseMs: number;
  /** How long after its lease ran out a former owner may still have a batch in flight. */
  graceMs: number;
  /** The canary of the version to go to, as the preflight verified it. */
  canary?: Binary;
  /** The open rotation that this one replaces, as it was read. */
  replaces: Pick<RotationDoc, "_id" | "epoch"> | undefined;
  /** Its lease, where that may be taken although MongoDB's clock says that it still runs. */
  watched?: WatchedLease | undefined;
  /**
   * From a retired version to the active one: stale envelopes. It begins in phase 2, which is next to the steady state here, since
   * every process continues writing what it wrote.
   */
  repairs?: boolean;
  /** What there is at the version to leave, so that it is noticed when a field loses its envelopes on the way. */
  fields: FieldCount[];
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
      const phase = firstPhase(wanted.repairs === true);
      const doc: RotationDoc = {
        _id: (highest?._id ?? 0) + 1,
        open: true,
        from: wanted.from,
        to: wanted.to,
        phase,
        epoch: (last?.epoch ?? 0) + 1,
        state: "running",
        lease: { owner: wanted.owner, token: 1, expires_at: new Date(now.getTime() + wanted.leaseMs) },
        started_at: now,
        started_by: auditor.actor,
        phase_times: { [String(phase)]: now },
        fields: wanted.fields,
        failed: [],
        fence: last?.fence ?? { versions: [], collections: [] },
        ...(wanted.replaces === undefined ? {} : { reverses: wanted.replaces._id }),
        ...(wanted.repairs === true ? { repairs: true as const } : {}),
      };
      if (wanted.replaces !== undefined) {
        const closed = await rotations(store).updateOne(
          {
            _id: wanted.replaces._id,
            epoch: wanted.replaces.epoch,
            from: wanted.to,
            to: wanted.from,
            open: true,
            phase: REVERSIBLE_PHASE,
            ...leaseFree(wanted.graceMs, wanted.watched),
          },
          { $set: { state: "reverted" }, $unset: { open: "" }, $inc: { epoch: 1 }, $currentDate: { ended_at: true } },
          { session },
        );
        if (closed.modifiedCount === 0) return undefined;
        if (import.meta.crashPoints) crashPoint("reverse.closed");
        doc.epoch += 1;
        events.push({ event: "rotation.reverted", data: { rotation: wanted.replaces._id, by: doc._id }, result: doc });
      }
      const states = statesToStart({ repairs: wanted.repairs === true, replaces: wanted.replaces !== undefined });
      if (!(await claimVersion(store, { session, version: wanted.from, states: states.from }))) return undefined;
      if (!(await claimVersion(store, { session, version: wanted.to, states: states.to, canary: wanted.canary })))
        return undefined;
      await rotations(store).insertOne(doc, { session });
      if (import.meta.crashPoints) crashPoint("rotation.inserted");
      const data = { rotation: doc._id, from: doc.from, to: doc.to, ...(wanted.repairs ? { repairs: true } : {}) };
      events.push({ event: "rotation.started", data, result: doc });
      return events;
    });
    return started?.[0];
  } catch (thrown) {
    if (isDuplicateKey(thrown)) return undefined;
    throw thrown;
  }
}

/** Compare-and-set of the phase. @returns the document after it, or undefined when this coordinator may not. */
export async function advancePhase(
  store: Store,
  auditor: Auditor,
  held: Held,
  to: 2 | 3,
): Promise<RotationDoc | undefined> {
  const advanced = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      { ...stillHeld(held), phase: phaseBefore(to) },
      { $set: { phase: to }, $inc: { epoch: 1 }, $currentDate: { [`phase_times.${to}`]: true } },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    if (import.meta.crashPoints) crashPoint("phase.written");
    rotationOf(doc);
    return [{ event: "rotation.phase", data: { rotation: doc._id, phase: to, epoch: doc.epoch }, result: doc }];
  });
  return advanced?.[0];
}

/** The end: the new version active, the old one retired, in one transaction. */
export async function completeRotation(store: Store, auditor: Auditor, held: Held): Promise<RotationDoc | undefined> {
  const completed = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      { ...stillHeld(held), phase: LAST_PHASE },
      {
        $set: { state: "completed", "lease.owner": null },
        $unset: { open: "" },
        $inc: { epoch: 1 },
        $currentDate: { ended_at: true },
      },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    if (import.meta.crashPoints) crashPoint("complete.closed");
    rotationOf(doc);
    const { from, to } = doc;
    const ended = { event: "rotation.completed" as const, data: { rotation: doc._id, from, to }, result: doc };
    // The versions were what they are before it began.
    if (!switchesActiveVersion(doc)) return [ended];
    await switchActive(store, session, from, to);
    return [
      { event: "version.activated", data: { version: doc.to, rotation: doc._id }, result: doc },
      { event: "version.retired", data: { version: doc.from, rotation: doc._id }, result: doc },
      ended,
    ];
  });
  return completed?.[0];
}

/**
 * Cancels what was read, whoever coordinates it. Phase 1 goes back to steady, and so does one that only repairs; phase 2 stays
 * open, both versions readable.
 * The first phase of a reverse rotation goes back to the unfinished rotation that it came from: records are at both versions.
 */
export async function cancelRotation(
  store: Store,
  auditor: Auditor,
  seen: RotationDoc,
): Promise<RotationDoc | undefined> {
  const cancelled = await audited(store, auditor, async (session) => {
    const closes = cancelEnds(seen);
    const doc = await rotations(store).findOneAndUpdate(
      {
        _id: seen._id,
        epoch: seen.epoch,
        state: "running",
        open: true,
        phase: { $lt: NOT_CANCELLABLE_FROM } as never,
        // Its coordinator may be lifting the fence against the version that processes are about to drop.
        ...(closes ? { fence: seen.fence } : {}),
      },
      {
        $set: { state: "cancelled" },
        $inc: { epoch: 1 },
        ...(closes ? { $unset: { open: "" as const }, $currentDate: { ended_at: true as const } } : {}),
      },
      { session, returnDocument: "after" },
    );
    if (doc === null) return undefined;
    if (import.meta.crashPoints) crashPoint("cancel.written");
    rotationOf(doc);
    if (closes && doc.reverses !== undefined) {
      await rotations(store).updateOne(
        { _id: doc.reverses },
        { $set: { state: "cancelled", open: true, epoch: doc.epoch + 1, fence: doc.fence }, $unset: { ended_at: "" } },
        { session },
      );
      if (import.meta.crashPoints) crashPoint("cancel.reopened");
    }
    return [{ event: "rotation.cancelled", data: { rotation: doc._id, phase: doc.phase }, result: doc }];
  });
  return cancelled?.[0];
}
