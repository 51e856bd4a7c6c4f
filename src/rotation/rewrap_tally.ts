import type { FieldName } from "../config/config.ts";
import type { FailedRecord, FieldCount, RotationDoc } from "../store/documents.ts";
import { fieldId } from "../store/fields.ts";
import type { Progress } from "./context.ts";
import { RecentRate } from "./recent_rate.ts";

/** Counts of a rewrap: done, left and failed by field, and how fast it goes. */
export class RewrapTally {
  readonly #rotation: RotationDoc;
  readonly #counts = new Map<string, FieldCount>();
  /** Records that this pass could not rewrap. */
  readonly #failed = new Map<string, FailedRecord>();
  #failures = 0;
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
    return this.#failures;
  }

  get failed(): FailedRecord[] {
    return [...this.#failed.values()];
  }

  of(field: FieldName): FieldCount {
    const id = fieldId(field);
    const found = this.#counts.get(id) ?? { field: id, done: 0, remaining: 0, failed: 0 };
    this.#counts.set(id, found);
    return found;
  }

  moved(field: FieldName, done: number): void {
    const count = this.of(field);
    count.done += done;
    count.remaining = Math.max(0, count.remaining - done);
    this.#rate.add(done);
  }

  fail(record: FailedRecord): void {
    this.#failures += 1;
    this.#failed.set(`${record.field} ${record.id}`, record);
  }

  /** Before each pass: what failed is found again, or was mended. */
  forgetFailures(): void {
    this.#failures = 0;
    this.#failed.clear();
  }

  rows(): FieldCount[] {
    const failed = this.failed;
    return [...this.#counts.values()].map((count) => ({
      ...count,
      failed: failed.filter((record) => record.field === count.field).length,
    }));
  }

  progress(): Progress {
    const rate = this.#rate.perSecond();
    const { _id: rotation, from, to } = this.#rotation;
    return { rotation, from, to, fields: this.rows(), rate, eta: rate > 0 ? this.remaining / rate : undefined };
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function sum(counts: Map<string, FieldCount>, key: "done" | "remaining"): number {
  return [...counts.values()].reduce((total, count) => total + count[key], 0);
}
