import type { FieldName } from "../config/config.ts";
import type { FailedRecord, FieldCount, RotationDoc } from "../protocol/documents.ts";
import { fieldId } from "../store/fields.ts";
import type { Progress } from "./context.ts";
import { RecentRate } from "./recent_rate.ts";

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
