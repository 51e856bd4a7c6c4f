import { setTimeout as sleep } from "node:timers/promises";
import { collectGarbage } from "../config/runtime.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import type { FailedRecord, FieldCount, FieldDoc, PacePoint, RotationDoc } from "../protocol/documents.ts";
import { reverseCommand } from "../protocol/next_steps.ts";
import { RESTORE } from "../protocol/stale_envelopes.ts";
import { thinned } from "../status/rewrap_rate.ts";
import { note } from "../store/audit_log.ts";
import { readCollections } from "../store/collections.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { wrapsAt } from "../store/rewrap_writes.ts";
import { saveProgress } from "../store/rotation_records.ts";
import { countAt } from "../store/version_counts.ts";
import { ensureIndex, indexError } from "../store/version_index.ts";
import { reserveWraps } from "../store/versions.ts";
import { batchLimitMs, type Context, type Reporter } from "./context.ts";
import type { LeaseKeeper } from "./lease_keeper.ts";
import { LISTED, RewrapProgress } from "./progress.ts";
import { RetryPolicy } from "./retry_policy.ts";
import { type RewrapWorker, type RewrapWorkers, workerError } from "./rewrap_workers.ts";
import { Throttle, type ThrottleOptions } from "./throttle.ts";

const WRAPS_BLOCK = 10_000;
const REPORT_MS = 500;
const SAVE_MS = 1000;
const COLLECT_MS = 4000;
const AUDIT_MS = 30_000;
const BACKOFF_MS = 250;
const BLOCKED_MS = 1000;

/** Passes over the index until no envelope is left at the old version. */
export class Rewrapper {
  readonly #context: Context;
  readonly #lease: LeaseKeeper;
  readonly #workers: RewrapWorkers;
  readonly #rotation: RotationDoc;
  readonly #reporter: Reporter;
  readonly #throttle: Throttle;
  readonly #retryPolicy: RetryPolicy;
  readonly #progress: RewrapProgress;
  readonly #audited = new Set<string>();
  #fields: FieldDoc[] = [];
  #reserved = 0;
  #reportedAt = 0;
  #savedAt = 0;
  #collectedAt = performance.now();
  #summaryAt = performance.now();
  #summaryDone: number;
  #pace: PacePoint[];
  #blocked = "";

  constructor(
    context: Context,
    {
      lease,
      workers,
      rotation,
      options,
      reporter,
    }: {
      lease: LeaseKeeper;
      workers: RewrapWorkers;
      rotation: RotationDoc;
      options: ThrottleOptions;
      reporter: Reporter;
    },
  ) {
    this.#context = context;
    this.#lease = lease;
    this.#workers = workers;
    this.#rotation = rotation;
    this.#reporter = reporter;
    this.#throttle = new Throttle(context, workers, options, reporter);
    this.#retryPolicy = new RetryPolicy(reporter);
    this.#progress = new RewrapProgress(rotation);
    this.#summaryDone = this.#progress.done;
    this.#pace = rotation.pace ?? [];
  }

  /** Records moved since the rotation began, by whichever coordinator. */
  get done(): number {
    return this.#progress.done;
  }

  /**
   * Repeats passes until the version counts of the old version is zero.
   * @throws KekError `incomplete` when only records are left that cannot be rewrapped; they are named in the rotation.
   */
  async toZero(): Promise<void> {
    for (;;) {
      this.#lease.check();
      try {
        if ((await this.countRemaining()) === 0) break;
        const moved = await this.#pass();
        const left = await this.countRemaining();
        if (left === 0) break;
        if (moved === 0 && left <= this.#progress.failures) throw await this.#incomplete();
        if (moved === 0) await pause(BACKOFF_MS);
      } catch (thrown) {
        await this.#retryPolicy.waitBeforeRetry(thrown, this.#progress.done);
      }
    }
    await this.#summary();
  }

  /**
   * Counts what is left at the old version in every registered field; the registry is read again. Waits while an index stands in the
   * way of one that can be counted by: whoever put it there can take it away.
   */
  async countRemaining(): Promise<number> {
    const { store } = this.#context;
    for (;;) {
      this.#fields = await readFields(store);
      const states = await Promise.all(
        this.#fields.map(async (field) => ({ field, index: await ensureIndex(store, field) })),
      );
      const blocked = states.flatMap(({ field, index }) =>
        index.state === "unusable" ? [indexError(field, index)] : [],
      );
      if (blocked[0] === undefined) break;
      this.#tellBlocked(blocked[0]);
      await pause(BLOCKED_MS);
      this.#lease.check();
    }
    const collections = await readCollections(
      store,
      this.#fields.map(({ collection }) => collection),
    );
    let left = 0;
    for (const field of this.#fields) {
      const count = this.#progress.of(field);
      const uuid = collections.find(({ name }) => name === field.collection)?.uuid;
      if (count.uuid === undefined && uuid !== undefined) count.uuid = uuid;
      count.remaining = await countAt(store, field, this.#rotation.from);
      left += count.remaining;
    }
    return left;
  }

  /** The counts as they stand, by field. */
  get counts(): FieldCount[] {
    return this.#progress.rows();
  }

  /** Leaves the counts in the rotation's document, also when it was cancelled. */
  async save(): Promise<void> {
    this.#savedAt = performance.now();
    const progress = {
      fields: this.#progress.rows(),
      failed: this.#progress.listed,
      pace: this.#pace,
      done: this.#progress.done,
    };
    const saved = await saveProgress(this.#context.store, this.#lease.held, progress);
    if (saved !== undefined) this.#pace = thinned(saved);
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** @returns how many records it moved. */
  async #pass(): Promise<number> {
    const before = this.#progress.done;
    this.#progress.forgetFailures();
    for (const field of this.#fields) {
      if (this.#progress.of(field).remaining > 0) await this.#passField(field);
    }
    return this.#progress.done - before;
  }

  /** The next batch is read while the workers are at work on those before it. */
  async #passField(field: FieldDoc): Promise<void> {
    const { batchSize } = this.#throttle;
    const portions = wrapsAt(this.#context.store, {
      field,
      version: this.#rotation.from,
      batchSize,
      portion: () => this.#throttle.portion,
    });
    const flying = new Set<Promise<void>>();
    let failure: unknown;
    try {
      for await (const { count, bytes, asked } of portions) {
        if (asked) this.#throttle.read();
        await this.#throttle.take(count, field.collection);
        await this.#reserve(count);
        const worker = await this.#workers.take();
        if (failure !== undefined || this.#lease.ended) {
          this.#workers.give(worker);
          break;
        }
        const began = performance.now();
        const batch: Promise<void> = this.#batch(worker, field, bytes)
          .catch((thrown) => {
            failure ??= thrown;
          })
          .finally(async () => {
            const restMs = this.#throttle.restAfter(performance.now() - began);
            if (restMs > 0 && failure === undefined && !this.#lease.ended) await pause(restMs);
            this.#workers.give(worker);
            flying.delete(batch);
          });
        flying.add(batch);
        await this.#tell();
      }
    } finally {
      // Whatever happens, no batch is left flying: not beside the next pass, and not after the lease is given back.
      await Promise.all(flying);
    }
    if (failure !== undefined) throw failure;
    this.#lease.check();
  }

  async #batch(worker: RewrapWorker, { collection, path }: FieldDoc, bytes: Uint8Array): Promise<void> {
    const { from, to } = this.#rotation;
    const limitMs = batchLimitMs(this.#context.config);
    const result = await worker.run({ kind: "rewrap", field: { collection, path }, from, to, bytes, limitMs });
    this.#progress.moved({ collection, path }, result.done);
    for (const { id, reason } of result.failed) await this.#fail({ field: fieldId({ collection, path }), id, reason });
    if (result.fault !== undefined) throw workerError(result.fault);
  }

  async #fail(record: FailedRecord): Promise<void> {
    this.#progress.fail(record);
    const key = `${record.field} ${record.id}`;
    if (this.#audited.has(key) || this.#audited.size === LISTED) return;
    this.#audited.add(key);
    this.#reporter.note(`record ${record.id} of ${record.field} cannot be rewrapped: ${record.reason}`);
    await this.#note("record.failed", { ...record });
  }

  /** Wraps are counted before they are made. */
  async #reserve(count: number): Promise<void> {
    try {
      while (this.#reserved < count) {
        const block = Math.max(WRAPS_BLOCK, count);
        this.#reserved += await reserveWraps(this.#context.store, this.#rotation.to, block);
        if (import.meta.crashPoints) crashPoint("wraps.reserved");
      }
    } catch (thrown) {
      throw thrown instanceof KekError && thrown.code === "wrap_limit_reached" ? this.#exhausted(thrown) : thrown;
    }
    this.#reserved -= count;
  }

  #exhausted({ code, message }: KekError): KekError {
    const { from, to } = this.#rotation;
    return new KekError(
      code,
      `${message}; the rotation ${from} → ${to} is unfinished, and every record opens`,
      `go back: ${reverseCommand(this.#rotation)}  then rotate to a new version`,
    );
  }

  async #tell(): Promise<void> {
    const now = performance.now();
    if (now - this.#reportedAt > REPORT_MS) {
      this.#reportedAt = now;
      this.#reporter.progress(this.#progress.progress());
    }
    if (now - this.#savedAt > SAVE_MS) await this.save();
    if (now - this.#collectedAt > COLLECT_MS) {
      this.#collectedAt = now;
      collectGarbage();
    }
    if (now - this.#summaryAt > AUDIT_MS) await this.#summary();
  }

  /** When it changes, not at each look. */
  #tellBlocked({ message, hint }: KekError): void {
    if (message === this.#blocked) return;
    this.#blocked = message;
    this.#reporter.note(`waiting: ${message}; ${hint}`);
  }

  async #summary(): Promise<void> {
    this.#summaryAt = performance.now();
    const { done, remaining, failures } = this.#progress;
    if (done === this.#summaryDone) return;
    await this.#note("rotation.progress", { rewrapped: done - this.#summaryDone, remaining, failed: failures });
    this.#summaryDone = done;
  }

  async #note(event: "record.failed" | "rotation.progress", data: Record<string, string | number>): Promise<void> {
    await note(this.#context.store, this.#context.auditor, event, { rotation: this.#rotation._id, ...data });
  }

  async #incomplete(): Promise<KekError> {
    await this.save();
    await this.#summary();
    const { failures, listed } = this.#progress;
    const [first] = listed;
    const { from, to } = this.#rotation;
    const what = failures === 1 ? "1 record cannot be rewrapped" : `${failures} records cannot be rewrapped`;
    return new KekError(
      "incomplete",
      `${what}, so version ${from} is not retired; the first: ${first?.id} of ${first?.field}: ${first?.reason}`,
      `correct what \`kek status\` lists: for a damaged envelope, ${RESTORE}; where the collection's validator rejects a record, change the record or the validator. Then run the same command again: certautopilot kek rotate --to-version=${to}`,
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function pause(ms: number): Promise<void> {
  await sleep(ms);
}
