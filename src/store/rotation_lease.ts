import { crashPoint } from "../errors/crash_point.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { rotationOf } from "./document_reader.ts";
import { type Held, leaseFree, rotations, stillHeld, type WatchedLease } from "./rotations.ts";
import type { Store } from "./store.ts";

/** The coordinator's lease: taken over, renewed, given back. */

/**
 * Takes over a rotation whose lease ran out `graceMs` ago (the time limit of a batch that its owner may have in flight),
 * or was given back. A cancelled one runs again.
 * @param watched a lease that may be taken although MongoDB's clock says that it still runs.
 * @returns undefined while the lease stands, or when what was read has changed.
 */
export async function takeOver(
  store: Store,
  {
    auditor,
    seen,
    owner,
    leaseMs,
    graceMs,
    watched,
  }: {
    auditor: Auditor;
    seen: RotationDoc;
    owner: string;
    leaseMs: number;
    graceMs: number;
    watched?: WatchedLease | undefined;
  },
): Promise<RotationDoc | undefined> {
  const taken = await audited(store, auditor, async (session) => {
    const doc = await rotations(store).findOneAndUpdate(
      {
        _id: seen._id,
        epoch: seen.epoch,
        open: true,
        ...leaseFree(graceMs, watched),
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
    if (import.meta.crashPoints) crashPoint("lease.taken_over");
    rotationOf(doc);
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
  if (import.meta.crashPoints) crashPoint("lease.renewed");
  return doc?.lease?.expires_at;
}

/** Gives the lease back, so that a successor need not wait. The token stays: it only ever grows. */
export async function releaseLease(store: Store, held: Pick<Held, "rotation" | "token">): Promise<void> {
  await rotations(store).updateOne(
    { _id: held.rotation, "lease.token": held.token },
    { $set: { "lease.owner": null } },
  );
  if (import.meta.crashPoints) crashPoint("lease.released");
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * When a coordinator's lease ends, by MongoDB's clock, for its workers' threads: each batch is put to MongoDB on the condition
 * that it is not over. A thread that wakes late sends what it has in hand all the same, and then nothing matches.
 */
export class LeaseEnd {
  /** Milliseconds since 1970; zero before the first renewal. Goes from thread to thread. */
  readonly shared: SharedArrayBuffer;
  readonly #ms: BigInt64Array;

  constructor(shared = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT)) {
    this.shared = shared;
    this.#ms = new BigInt64Array(shared);
  }

  get date(): Date {
    return new Date(Number(Atomics.load(this.#ms, 0)));
  }

  set(date: Date): void {
    Atomics.store(this.#ms, 0, BigInt(date.getTime()));
  }
}
