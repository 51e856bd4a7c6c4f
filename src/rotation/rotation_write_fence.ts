import { KekError } from "../errors/errors.ts";
import {
  rejectedWriteVersion,
  setWriteFence,
  unfencedCollections,
  type WriteFenceOutcome,
} from "../fleet/write_fence_setter.ts";
import type { FenceRecord, RotationDoc } from "../protocol/documents.ts";
import { CANCEL_COMMAND } from "../protocol/next_steps.ts";
import { readCollections } from "../store/collections.ts";
import { readFields } from "../store/fields.ts";
import { heldFenceRecorder } from "../store/rotation_records.ts";
import { hasLifted, readRotation } from "../store/rotations.ts";
import type { Context, Reporter } from "./context.ts";
import type { LeaseKeeper } from "./lease_keeper.ts";

/** The fence of one rotation, as its coordinator lifts and raises it while it holds the lease. */
export class RotationWriteFence {
  readonly #context: Context;
  readonly #lease: LeaseKeeper;
  readonly #reporter: Reporter;

  constructor(context: Context, lease: LeaseKeeper, reporter: Reporter) {
    this.#context = context;
    this.#lease = lease;
    this.#reporter = reporter;
  }

  /**
   * Before a version is written again. Also when the record says that it is lifted: whoever lifted it may have died before it
   * told the collections, or the record may be an older copy that was restored without them.
   * @throws KekError `mongodb_refused` when MongoDB would go on to reject it; the record is as it was then.
   */
  async ensureRemoved(version: number): Promise<void> {
    const { store } = this.#context;
    const { collections, versions } = await this.#recorded();
    const rejecting = await rejectedWriteVersion(store, await readFields(store), version);
    if (collections.length > 0 || rejecting.length > 0) {
      const { refused } = await this.remove(version);
      await this.#mustBeLifted(version, refused);
    }
    if (versions.includes(version))
      this.#reporter.note(`the fence against version ${version} is lifted: it will be written again`);
  }

  /** For stale envelopes, or envelopes of a field that nobody had registered before: the fence must not keep them from being moved. */
  async remove(version: number): Promise<WriteFenceOutcome> {
    return await this.#set(({ versions }) => versions.filter((entry) => entry !== version));
  }

  /** Whether a version is rejected, by the record or by a live validator that the record does not explain. */
  async stands(version: number): Promise<boolean> {
    const { store } = this.#context;
    if ((await this.#recorded()).versions.includes(version)) return true;
    return (await rejectedWriteVersion(store, await readFields(store), version)).length > 0;
  }

  /**
   * Neither the record nor MongoDB's answers decide, but the live validators: a collection may have been dropped, or a `collMod`
   * that was sent long ago may have arrived.
   * @returns whether MongoDB rejects envelopes of `from` in every collection.
   */
  async set(from: number, to: number): Promise<boolean> {
    const wanted = ({ versions }: FenceRecord) =>
      [...new Set([...versions, from])].filter((version) => version !== to).sort((a, b) => a - b);
    const unfenced = await this.#unfencedAfter(await this.#set(wanted), from);
    const list = unfenced.map(({ collection, reason }) => `${collection} (${reason})`).join(", ");
    this.#reporter.note(
      unfenced.length === 0
        ? `the fence is up: MongoDB rejects envelopes of version ${from} from now on`
        : `the fence could not be set on ${list}: zero is counted twice instead`,
    );
    return unfenced.length === 0;
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** What could not be fenced, and what is not fenced now. */
  async #unfencedAfter({ unfenced }: WriteFenceOutcome, version: number): Promise<WriteFenceOutcome["unfenced"]> {
    const { store } = this.#context;
    const live = await unfencedCollections(store, await readFields(store), version);
    const named = new Set(unfenced.map(({ collection }) => collection));
    const there = new Set((await readCollections(store, live)).map(({ name }) => name));
    const others = live.filter((collection) => !named.has(collection));
    // A collection that does not exist has no validator, and making it would keep one that was renamed from being renamed back.
    const reasonOf = (collection: string) => (there.has(collection) ? ACCEPTED : "there is no such collection");
    return [...unfenced, ...others.map((collection) => ({ collection, reason: reasonOf(collection) }))];
  }

  /** What the next step writes MongoDB must accept: a fence that stands stands, whatever the record says. */
  async #mustBeLifted(version: number, refused: string[]): Promise<void> {
    const { store } = this.#context;
    const rejecting = await rejectedWriteVersion(store, await readFields(store), version);
    if (rejecting.length === 0) return;
    const standing = rejecting.map(({ collection }) => collection);
    // As it was before, so that this rotation can be cancelled. A fence that no rotation recorded was not lifted by this one.
    if (await hasLifted(store, await this.#rotation(), version))
      await this.#set(({ versions }) => [...new Set([...versions, version])].sort((a, b) => a - b));
    const [why, hint] = standing.some((name) => refused.includes(name))
      ? ["MongoDB does not permit collMod to this command's user", "grant it dbAdmin on the install's database"]
      : ["it was set again meanwhile, or in another form", `look at the validator of ${standing[0]}`];
    throw new KekError(
      "mongodb_refused",
      `the fence against KEK version ${version} still stands on ${standing.join(", ")}: ${why}`,
      `${hint}, and run the same command again; or give up: ${CANCEL_COMMAND}`,
    );
  }

  /** Read again each time: a process may have repaired the fence, or covered a field, since this rotation began. */
  async #set(versionsOf: (fence: FenceRecord) => number[]): Promise<WriteFenceOutcome> {
    const { store, auditor } = this.#context;
    for (;;) {
      this.#lease.check();
      const fence = await this.#recorded();
      const recorder = heldFenceRecorder(store, auditor, this.#lease.held, fence);
      const tell = (message: string) => this.#reporter.note(message);
      const outcome = await setWriteFence(store, {
        fields: await readFields(store),
        before: fence,
        versions: versionsOf(fence),
        recorder,
        tell,
      });
      if (outcome !== undefined) return outcome;
      if (JSON.stringify(await this.#recorded()) === JSON.stringify(fence)) return await this.#lease.refused();
    }
  }

  async #recorded(): Promise<FenceRecord> {
    return (await this.#rotation()).fence;
  }

  async #rotation(): Promise<RotationDoc> {
    return (await readRotation(this.#context.store, this.#lease.held.rotation)) ?? (await this.#lease.refused());
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const ACCEPTED = "MongoDB accepts the version there";
