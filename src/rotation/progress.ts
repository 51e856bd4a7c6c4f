import { Binary } from "bson";
import type { FieldName } from "../config/config.ts";
import type { FailedRecord, FieldCount, RotationDoc } from "../protocol/documents.ts";
import { fieldId } from "../store/fields.ts";
import type { BadRecord, VerificationDoc } from "../store/verifications.ts";
import type { Progress } from "./context.ts";
import type { BatchResult } from "./rewrap_batch.ts";

/** Failed records that are kept, in memory and in the rotation's document. */
export const LISTED = 1000;

/** Counts of a rewrap: done, left and failed by field, and how fast it goes. */
export class RewrapProgress {
  readonly #rotation: RotationDoc;
  readonly #counts = new Map<string, FieldCount>();
  /** Records that this pass could not rewrap, the first of them: there may be as many as there are records. */
  readonly #listed = new Map<string, FailedRecord>();
  readonly #rate = new RecentRate();

  constructor(rotation: RotationDoc) {
    this.#rotation = rotation;
    for (const count of rotation.fields) this.#counts.set(count.field, { ...count, failed: 0 });
  }

  get done(): number {
    return sum(this.#counts, "done");
  }

  get remaining(): number {
    return sum(this.#counts, "remaining");
  }

  /** How many this pass could not rewrap: two records on two shards may have one name. */
  get failures(): number {
    return sum(this.#counts, "failed");
  }

  /** At most LISTED of those. */
  get listed(): FailedRecord[] {
    return [...this.#listed.values()];
  }

  of(field: FieldName): FieldCount {
    return this.#named(fieldId(field));
  }

  moved(field: FieldName, done: number): void {
    const count = this.of(field);
    count.done += done;
    count.remaining = Math.max(0, count.remaining - done);
    this.#rate.add(done);
  }

  fail(record: FailedRecord): void {
    this.#named(record.field).failed += 1;
    if (this.#listed.size < LISTED) this.#listed.set(`${record.field} ${record.id}`, record);
  }

  /** Before each pass: what failed is found again, or was repaired. */
  forgetFailures(): void {
    for (const count of this.#counts.values()) count.failed = 0;
    this.#listed.clear();
  }

  rows(): FieldCount[] {
    return [...this.#counts.values()].map((count) => ({ ...count }));
  }

  progress(): Progress {
    const rate = this.#rate.perSecond();
    const { _id: rotation, from, to } = this.#rotation;
    return { rotation, from, to, fields: this.rows(), rate, eta: rate > 0 ? this.remaining / rate : undefined };
  }

  // -------------------------------------------------------------------------------------------------------------------

  #named(field: string): FieldCount {
    const found = this.#counts.get(field) ?? { field, done: 0, remaining: 0, failed: 0 };
    this.#counts.set(field, found);
    return found;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function sum(counts: Map<string, FieldCount>, key: "done" | "remaining" | "failed"): number {
  return [...counts.values()].reduce((total, count) => total + count[key], 0);
}

// ---------------------------------------------------------------------------------------------------------------------

export interface OpeningProgress {
  records: number;
  /** How many there were when it began. */
  of: number;
  failed: number;
  /** Records a second over the last seconds. */
  rate: number;
  /** Seconds left, when it can be told. */
  eta: number | undefined;
}

/** What a verification has found, batch after batch in the order of the records: at any moment it is true up to its position. */
export class VerifyProgress {
  readonly #doc: VerificationDoc;
  readonly #of: number;
  readonly #rate = new RecentRate();

  constructor(doc: VerificationDoc, of: number) {
    this.#doc = doc;
    this.#of = of;
  }

  /** As it is to be stored. */
  get doc(): VerificationDoc {
    return this.#doc;
  }

  /** @param lastId the raw BSON of `{_id}` of the batch's last record. */
  add({ collection, path }: FieldName, { done, failed }: BatchResult, lastId: Uint8Array): void {
    const doc = this.#doc;
    doc.at = { field: fieldId({ collection, path }), after: new Binary(lastId, 0) };
    doc.records += done + failed.length;
    doc.opened += done;
    doc.failed += failed.length;
    const room = LISTED - doc.bad.length;
    doc.bad.push(...failed.slice(0, room).map(({ id, reason }): BadRecord => ({ collection, path, id, reason })));
    this.#rate.add(done + failed.length);
  }

  finished(field: FieldName): void {
    this.#doc.done.push(fieldId(field));
    this.#doc.at = null;
  }

  /** Where to go on in a field: undefined at its beginning. */
  after(field: FieldName): Uint8Array | undefined {
    const { at } = this.#doc;
    return at?.field === fieldId(field) ? at.after.value() : undefined;
  }

  progress(): OpeningProgress {
    const { records, failed } = this.#doc;
    const rate = this.#rate.perSecond();
    const of = Math.max(records, this.#of);
    return { records, of, failed, rate, eta: rate > 0 ? (of - records) / rate : undefined };
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const WINDOW_MS = 5000;

/** How fast it goes: records a second over the last five seconds. */
export class RecentRate {
  #recent: { at: number; count: number }[] = [];

  add(count: number): void {
    this.#recent.push({ at: performance.now(), count });
  }

  /** Zero while nothing can be told. */
  perSecond(): number {
    const now = performance.now();
    this.#recent = this.#recent.filter((entry) => now - entry.at < WINDOW_MS);
    const since = this.#recent[0]?.at ?? now;
    if (now === since) return 0;
    return (this.#recent.reduce((total, entry) => total + entry.count, 0) / (now - since)) * 1000;
  }
}
