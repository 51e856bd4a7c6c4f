import { KekError } from "../errors/errors.ts";
import { note } from "../store/audit_log.ts";
import { countAt } from "../store/census.ts";
import type { FailedRecord, FieldCount, FieldDoc, RotationDoc } from "../store/documents.ts";
import { isTransient } from "../store/failures.ts";
import { ensureIndex, fieldId, readFields } from "../store/fields.ts";
import { wrapsAt } from "../store/records.ts";
import { saveProgress } from "../store/rotations.ts";
import { reserveWraps } from "../store/versions.ts";
import { batchLimitMs, type Context, type Reporter } from "./context.ts";
import type { Lane, Lanes } from "./lanes.ts";
import type { LeaseKeeper } from "./lease.ts";
import { RateLimit } from "./rate_limit.ts";

/** Passes over the index until no envelope is left at the old version. */

export interface RewrapOptions {
  batchSize: number;
  /** Records a second, or undefined for as fast as it goes. */
  maxRate: number | undefined;
}

const WRAPS_BLOCK = 10_000;
const REPORT_MS = 500;
const SAVE_MS = 1000;
const AUDIT_MS = 30_000;
const LISTED_FAILURES = 1000;

export class Rewrapper {
  readonly #context: Context;
  readonly #lease: LeaseKeeper;
  readonly #lanes: Lanes;
  readonly #rotation: RotationDoc;
  readonly #reporter: Reporter;
  readonly #options: RewrapOptions;
  readonly #limit: RateLimit;
  readonly #counts = new Map<string, FieldCount>();
  readonly #failed = new Map<string, FailedRecord>();
  #fields: FieldDoc[] = [];
  #reserved = 0;
  #recent: { at: number; done: number }[] = [];
  #reportedAt = 0;
  #savedAt = 0;
  #auditedAt = performance.now();
  #auditedDone = 0;

  constructor(
    context: Context,
    lease: LeaseKeeper,
    lanes: Lanes,
    rotation: RotationDoc,
    options: RewrapOptions,
    reporter: Reporter,
  ) {
    this.#context = context;
    this.#lease = lease;
    this.#lanes = lanes;
    this.#rotation = rotation;
    this.#options = options;
    this.#reporter = reporter;
    this.#limit = new RateLimit(options.maxRate);
    for (const count of rotation.fields) this.#counts.set(count.field, { ...count, failed: 0 });
  }

  /** The fields as the last census saw them. */
  get fields(): FieldDoc[] {
    return this.#fields;
  }

  get done(): number {
    return [...this.#counts.values()].reduce((sum, count) => sum + count.done, 0);
  }

  /**
   * Repeats passes until the census of the old version is zero.
   * @throws KekError `incomplete` when only records are left that do not unwrap; they are named in the rotation.
   */
  async toZero(): Promise<void> {
    const BACKOFF_MS = 250;
    for (;;) {
      this.#lease.check();
      try {
        if ((await this.census()) === 0) break;
        const moved = await this.#pass();
        const left = await this.census();
        if (left === 0) break;
        if (moved === 0 && left <= this.#failed.size) throw await this.#incomplete();
        if (moved === 0) await new Promise((resolve) => setTimeout(resolve, BACKOFF_MS));
      } catch (thrown) {
        if (!isTransient(thrown)) throw thrown;
        this.#reporter.note("MongoDB did not answer: trying again while the lease holds");
        await new Promise((resolve) => setTimeout(resolve, BACKOFF_MS * 4));
      }
    }
    await this.#save();
    await this.#summary();
  }

  /** Counts what is left at the old version in every registered field; the registry is read anew. */
  async census(): Promise<number> {
    const { store } = this.#context;
    this.#fields = await readFields(store);
    let left = 0;
    for (const field of this.#fields) {
      await ensureIndex(store, field);
      const count = this.#countOf(field);
      count.remaining = await countAt(store, field, this.#rotation.from);
      left += count.remaining;
    }
    return left;
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** @returns how many records it moved. */
  async #pass(): Promise<number> {
    const before = this.done;
    this.#failed.clear();
    for (const field of this.#fields) {
      if (this.#countOf(field).remaining > 0) await this.#passField(field);
    }
    return this.done - before;
  }

  async #passField(field: FieldDoc): Promise<void> {
    const { store } = this.#context;
    const flying = new Set<Promise<void>>();
    let failure: unknown;
    for await (const { count, bytes } of wrapsAt(store, field, this.#rotation.from, this.#options.batchSize)) {
      await this.#limit.take(count);
      await this.#reserve(count);
      const lane = await this.#lanes.take();
      if (failure !== undefined || this.#lease.ended) {
        this.#lanes.give(lane);
        break;
      }
      const batch: Promise<void> = this.#batch(lane, field, bytes)
        .catch((thrown) => {
          failure ??= thrown;
        })
        .finally(() => {
          this.#lanes.give(lane);
          flying.delete(batch);
        });
      flying.add(batch);
      await this.#tell();
    }
    await Promise.all(flying);
    if (failure !== undefined) throw failure;
    this.#lease.check();
  }

  async #batch(lane: Lane, field: FieldDoc, bytes: Uint8Array): Promise<void> {
    const { from, to } = this.#rotation;
    const limitMs = batchLimitMs(this.#context.config);
    const result = await lane.run({
      field: { collection: field.collection, path: field.path },
      from,
      to,
      bytes,
      limitMs,
    });
    const count = this.#countOf(field);
    count.done += result.done;
    count.remaining = Math.max(0, count.remaining - result.done);
    for (const { id, reason } of result.failed) await this.#fail({ field: fieldId(field), id, reason });
    this.#recent.push({ at: performance.now(), done: result.done });
  }

  async #fail(record: FailedRecord): Promise<void> {
    const key = `${record.field} ${record.id}`;
    const known = this.#rotation.failed.some((entry) => entry.field === record.field && entry.id === record.id);
    this.#failed.set(key, record);
    if (known) return;
    this.#rotation.failed.push(record);
    this.#reporter.note(`record ${record.id} of ${record.field} cannot be rewrapped: ${record.reason}`);
    if (this.#rotation.failed.length > LISTED_FAILURES) return;
    await note(this.#context.store, this.#context.auditor, "record.failed", {
      rotation: this.#rotation._id,
      ...record,
    });
  }

  /** Wraps are counted before they are made. */
  async #reserve(count: number): Promise<void> {
    if (this.#reserved < count) {
      const block = Math.max(WRAPS_BLOCK, count);
      await reserveWraps(this.#context.store, this.#rotation.to, block);
      this.#reserved += block;
    }
    this.#reserved -= count;
  }

  #countOf(field: FieldDoc): FieldCount {
    const id = fieldId(field);
    const found = this.#counts.get(id) ?? { field: id, done: 0, remaining: 0, failed: 0 };
    this.#counts.set(id, found);
    return found;
  }

  async #tell(): Promise<void> {
    const now = performance.now();
    if (now - this.#reportedAt > REPORT_MS) {
      this.#reportedAt = now;
      const WINDOW_MS = 5000;
      this.#recent = this.#recent.filter((entry) => now - entry.at < WINDOW_MS);
      const since = this.#recent[0]?.at ?? now;
      const rate = now > since ? (this.#recent.reduce((sum, entry) => sum + entry.done, 0) / (now - since)) * 1000 : 0;
      const left = [...this.#counts.values()].reduce((sum, count) => sum + count.remaining, 0);
      const { _id: rotation, from, to } = this.#rotation;
      this.#reporter.progress({
        rotation,
        from,
        to,
        fields: this.#report(),
        rate,
        eta: rate > 0 ? left / rate : undefined,
      });
    }
    if (now - this.#savedAt > SAVE_MS) await this.#save();
    if (now - this.#auditedAt > AUDIT_MS) await this.#summary();
  }

  #report(): FieldCount[] {
    const failed = [...this.#failed.values()];
    return [...this.#counts.values()].map((count) => ({
      ...count,
      failed: failed.filter((record) => record.field === count.field).length,
    }));
  }

  async #save(): Promise<void> {
    this.#savedAt = performance.now();
    await saveProgress(
      this.#context.store,
      this.#lease.held,
      this.#report(),
      [...this.#failed.values()].slice(0, LISTED_FAILURES),
    );
  }

  async #summary(): Promise<void> {
    this.#auditedAt = performance.now();
    if (this.done === this.#auditedDone) return;
    const rows = this.#report();
    await note(this.#context.store, this.#context.auditor, "rotation.progress", {
      rotation: this.#rotation._id,
      rewrapped: this.done - this.#auditedDone,
      remaining: rows.reduce((sum, row) => sum + row.remaining, 0),
      failed: this.#failed.size,
    });
    this.#auditedDone = this.done;
  }

  async #incomplete(): Promise<KekError> {
    await this.#save();
    await this.#summary();
    const [first] = this.#failed.values();
    const { from, to } = this.#rotation;
    return new KekError(
      "incomplete",
      `${this.#failed.size} of the records cannot be rewrapped, so version ${from} cannot be retired; the first: ${first?.id} of ${first?.field}: ${first?.reason}`,
      `restore or remove them (kek status lists them), then run the same command again: certautopilot kek rotate --to-version=${to}`,
    );
  }
}
