import type { Store } from "../store/store.ts";
import { reserveWraps } from "../store/versions.ts";

const BLOCK = 1000;

/** Wraps are counted in blocks before they are made, so that a crash can only over-count (NIST SP 800-38D, 8.3). */
export class WrapBudget {
  readonly #store: Store;
  readonly #left = new Map<number, number>();
  readonly #reserving = new Map<number, Promise<void>>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Takes one wrap under a version; asks MongoDB only when a block is used up. @throws KekError `wraps_exhausted`. */
  async take(version: number): Promise<void> {
    for (;;) {
      const left = this.#left.get(version) ?? 0;
      if (left > 0) {
        this.#left.set(version, left - 1);
        return;
      }
      await this.#reserve(version);
    }
  }

  /** Whoever finds a block used up at the same time shares the next one. */
  #reserve(version: number): Promise<void> {
    const under = this.#reserving.get(version);
    if (under !== undefined) return under;
    const reserving = reserveWraps(this.#store, version, BLOCK)
      .then((granted) => {
        this.#left.set(version, (this.#left.get(version) ?? 0) + granted);
      })
      .finally(() => this.#reserving.delete(version));
    this.#reserving.set(version, reserving);
    return reserving;
  }
}
