import type { VersionCount } from "../protocol/version_count.ts";
import type { FieldFacts } from "../store/field_facts.ts";
import { withTimeLimit } from "../util/time_limit.ts";

/** The last count of all records, kept for a while: many look, and counting takes a part of a second for each million records. */

export interface Counts {
  rows: VersionCount[];
  fields: FieldFacts;
}

export interface VersionCountsAt extends Counts {
  at: Date;
}

interface Counted extends VersionCountsAt {
  /** The state that it was counted in: records of the next one would look astray. */
  epoch: number;
  takenAt: number;
  tookMs: number;
}

/** No more than a twentieth of the time goes into counting. */
const REST_AFTER_COUNT = 20;
/** Who looks is not kept waiting for longer by a new count, while the last one is of the same state. */
const WAIT_MS = 1000;

export class CachedVersionCounts {
  readonly #count: () => Promise<Counts>;
  #last: Counted | undefined;
  /** Shared by readers that gave up waiting for it: a long count is not begun again each time. */
  #counting: Promise<Counted> | undefined;

  constructor(count: () => Promise<Counts>) {
    this.#count = count;
  }

  /** Counted in this state, and not long ago. A count that fails in time is thrown; of one that fails later the age tells. */
  async of(epoch: number, now: Date): Promise<VersionCountsAt> {
    for (;;) {
      const last = this.#last?.epoch === epoch ? this.#last : undefined;
      if (last !== undefined && performance.now() - last.takenAt < last.tookMs * REST_AFTER_COUNT) return last;
      this.#counting ??= this.#countNow(epoch, now).finally(() => {
        this.#counting = undefined;
      });
      const counted = await (last === undefined ? this.#counting : withTimeLimit(WAIT_MS, this.#counting, () => last));
      if (counted.epoch >= epoch) return counted;
    }
  }

  async #countNow(epoch: number, at: Date): Promise<Counted> {
    const began = performance.now();
    const counts = await this.#count();
    const takenAt = performance.now();
    this.#last = { ...counts, at, epoch, takenAt, tookMs: takenAt - began };
    return this.#last;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
