import { setTimeout as sleep } from "node:timers/promises";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Phase, RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import { releaseLease } from "../store/rotation_lease.ts";
import { advancePhase, completeRotation } from "../store/rotation_steps.ts";
import { readRotation } from "../store/rotations.ts";
import { countAt } from "../store/version_counts.ts";
import { canaryOf, readVersions } from "../store/versions.ts";
import { seconds } from "../util/duration.ts";
import { awaitAcknowledgements } from "./await_acknowledgements.ts";
import { type Context, lateWriteMs, type Reporter } from "./context.ts";
import { LeaseKeeper } from "./lease_keeper.ts";
import { refuseMissed } from "./missed_envelopes.ts";
import { RetryPolicy } from "./retry_policy.ts";
import { Rewrapper } from "./rewrap.ts";
import { RewrapWorkers, type WorkerKey } from "./rewrap_workers.ts";
import { RotationWriteFence } from "./rotation_write_fence.ts";
import type { ThrottleOptions } from "./throttle.ts";

/** Leads one rotation through its phases: compare-and-set, then wait for every member, then the phase's own work. */

export interface CoordinatorOptions extends ThrottleOptions {
  concurrency: number;
  fence: "auto" | "off";
}

export interface RotationSummary {
  rotation: number;
  from: number;
  to: number;
  rewrapped: number;
  seconds: number;
  fenced: boolean;
}

const PHASE_NAMES: Record<Phase, (from: number, to: number) => string> = {
  1: (from, to) => `announce: every process loads version ${to} and continues writing under ${from}`,
  2: (from, to) => `re-wrap: every process writes under version ${to}, records move from ${from} to ${to}`,
  3: (from, to) => `settle: every process gives version ${from} up and keeps ${to} only`,
};

export class Coordinator {
  readonly #context: Context;
  readonly #options: CoordinatorOptions;
  readonly #reporter: Reporter;
  readonly #lease: LeaseKeeper;
  readonly #fence: RotationWriteFence;
  #doc: RotationDoc;
  #rewrapped = 0;
  #fenced = false;
  #workers: RewrapWorkers | undefined;

  constructor(context: Context, doc: RotationDoc, options: CoordinatorOptions, reporter: Reporter) {
    this.#context = context;
    this.#doc = doc;
    this.#options = options;
    this.#reporter = reporter;
    this.#lease = new LeaseKeeper(context.store, doc, context.config.fleet.leaseMs);
    this.#fence = new RotationWriteFence(context, this.#lease, reporter);
  }

  /** @throws KekError `cancelled`, `lease_lost`, `incomplete`, `not_acknowledged`, and what MongoDB says. */
  async run(): Promise<RotationSummary> {
    const began = performance.now();
    try {
      await this.#lease.start();
      if (this.#doc.phase === 1) await this.#announce();
      if (this.#doc.phase === 2) await this.#rewrap();
      await this.#settle();
    } finally {
      await this.#closeLanes();
      await this.#lease.stop();
      await releaseLease(this.#context.store, this.#lease.held).catch((thrown) => {
        this.#reporter.note(`the lease could not be given back, it runs out by itself: ${messageOf(thrown)}`);
      });
    }
    const { _id: rotation, from, to } = this.#doc;
    return {
      rotation,
      from,
      to,
      rewrapped: this.#rewrapped,
      seconds: (performance.now() - began) / 1000,
      fenced: this.#fenced,
    };
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #announce(): Promise<void> {
    await this.#enter(1);
    // Phase 2 is not entered by a rotation that could not move a record: the HSM must let its workers in first.
    this.#workers = await this.#openLanes();
    await this.#fence.ensureRemoved(this.#doc.to);
    await this.#advance(2);
  }

  async #rewrap(): Promise<void> {
    await this.#enter(2);
    const { from, to } = this.#doc;
    // A rotation that was restored into this phase never lifted it.
    if (await this.#fence.stands(to)) await this.#fence.ensureRemoved(to);
    const before = this.#doc.fields;
    this.#workers ??= await this.#openLanes();
    const workers = this.#workers;
    const rewrapper = new Rewrapper(this.#context, {
      lease: this.#lease,
      workers,
      rotation: this.#doc,
      options: this.#options,
      reporter: this.#reporter,
    });
    try {
      const done = rewrapper.done;
      for (;;) {
        await this.#lowerFence(rewrapper);
        await rewrapper.toZero();
        // A process that joined meanwhile must write under the new version as well before the fence goes up.
        await awaitAcknowledgements(this.#context, this.#lease, 2, this.#reporter);
        this.#fenced = this.#options.fence === "auto" && (await this.#fence.set(from, to));
        if (!this.#fenced) await this.#waitUnfenced();
        if ((await rewrapper.countRemaining()) === 0) break;
      }
      await refuseMissed(this.#context, {
        lease: this.#lease,
        from,
        before,
        after: rewrapper.counts,
        reporter: this.#reporter,
      });
      this.#rewrapped = rewrapper.done - done;
    } finally {
      await this.#closeLanes();
      await rewrapper
        .save()
        .catch((thrown) => this.#reporter.note(`the counts could not be saved: ${messageOf(thrown)}`));
    }
    if (import.meta.crashPoints) crashPoint("count.again");
    await this.#advance(3);
  }

  /** Each rewrap worker with its connection and its keys verified; waits for an HSM that is unavailable. */
  async #openLanes(): Promise<RewrapWorkers> {
    const { config, install, store, provider } = this.#context;
    const { from, to } = this.#doc;
    const retryPolicy = new RetryPolicy(this.#reporter);
    for (;;) {
      this.#lease.check();
      try {
        const versions = await readVersions(store);
        return await RewrapWorkers.open(await provider.recipes(this.#options.concurrency), {
          database: config.database,
          installId: install.install_id,
          keys: [laneKey(versions, from), laneKey(versions, to)],
          lease: this.#lease.until.shared,
        });
      } catch (thrown) {
        await retryPolicy.waitBeforeRetry(thrown, 0);
      }
    }
  }

  async #closeLanes(): Promise<void> {
    const workers = this.#workers;
    this.#workers = undefined;
    await workers?.close();
  }

  async #settle(): Promise<void> {
    await this.#enter(3);
    const completed = await this.#retrying(() =>
      completeRotation(this.#context.store, this.#context.auditor, this.#lease.held),
    );
    if (completed === undefined && !(await this.#hadMoved((doc) => doc.state === "completed")))
      await this.#lease.refused();
    if (import.meta.crashPoints) crashPoint("complete.done");
    await this.#tellLeft().catch((thrown) =>
      this.#reporter.note(`what is left at version ${this.#doc.from} could not be counted: ${messageOf(thrown)}`),
    );
  }

  /** A field that was registered after the last count: its envelopes keep their key, and the same command moves them. */
  async #tellLeft(): Promise<void> {
    const { store } = this.#context;
    const { from } = this.#doc;
    for (const field of await readFields(store)) {
      const count = await countAt(store, field, from);
      if (count > 0)
        this.#reporter.note(`${count} envelopes of ${fieldId(field)} are still at version ${from}: ${REPAIR}`);
    }
  }

  async #enter(phase: Phase): Promise<void> {
    this.#reporter.phase(phase, PHASE_NAMES[phase](this.#doc.from, this.#doc.to));
    await awaitAcknowledgements(this.#context, this.#lease, phase, this.#reporter);
  }

  async #advance(phase: 2 | 3): Promise<void> {
    this.#lease.check();
    const advanced = await this.#retrying(() =>
      advancePhase(this.#context.store, this.#context.auditor, this.#lease.held, phase),
    );
    const doc = advanced ?? (await this.#hadMoved((now) => now.state === "running" && now.phase === phase));
    if (doc === undefined) return await this.#lease.refused();
    if (import.meta.crashPoints) crashPoint("phase.advanced");
    this.#doc = doc;
    this.#lease.moved(doc);
  }

  async #lowerFence(rewrapper: Rewrapper): Promise<void> {
    const { from } = this.#doc;
    if (this.#options.fence === "off" || !(await this.#fence.stands(from))) return;
    if ((await rewrapper.countRemaining()) > 0) await this.#fence.remove(from);
  }

  /** Without a fence: zero counted twice, further apart than the lease plus the longest write. */
  async #waitUnfenced(): Promise<void> {
    const apart = await lateWriteMs(this.#context);
    this.#reporter.note(`no fence: waiting ${seconds(apart)} before the second count`);
    const until = performance.now() + apart;
    while (performance.now() < until) {
      this.#lease.check();
      await sleep(250);
    }
  }

  /** The next epoch under this coordinator's own token: a change that it made, and of which it was never told. */
  async #hadMoved(expected: (doc: RotationDoc) => boolean): Promise<RotationDoc | undefined> {
    const { rotation, token, epoch } = this.#lease.held;
    const doc = await readRotation(this.#context.store, rotation);
    return doc?.lease?.token === token && doc.epoch === epoch + 1 && expected(doc) ? doc : undefined;
  }

  /** A conditional change whose answer got lost is tried again: whether it had happened shows in the state. */
  async #retrying<T>(change: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await change();
      } catch (thrown) {
        if (!(isTransient(thrown) && !(thrown instanceof KekError)) || this.#lease.ended) throw thrown;
        await sleep(500);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const REPAIR = "it was registered after the last count; run the same command again, which moves them";

function laneKey(versions: VersionDoc[], version: number): WorkerKey {
  const doc = versions.find((entry) => entry._id === version);
  if (doc === undefined)
    throw new KekError("version_unknown", `KEK version ${version} is not known any more`, "certautopilot kek status");
  return { version, ...canaryOf(doc) };
}
