import type { Store } from "../store/store.ts";
import { reserveWraps } from "../store/versions.ts";

/** Wraps are counted in blocks before they are made, so that a crash can only over-count (NIST SP 800-38D, 8.3). */
export class WrapBudget {
  readonly #store: Store;
  readonly #left = new Map<number, number>();
  #reserving: Promise<void> | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Takes one wrap under a version; asks MongoDB only when a block is used up. */
  async take(version: number): Promise<void> {
    for (;;) {
      const left = this.#left.get(version) ?? 0;
      if (left > 0) {
        this.#left.set(version, left - 1);
        return;
      }
      this.#reserving ??= this.#reserve(version).finally(() => {
        this.#reserving = undefined;
      });
      await this.#reserving;
    }
  }

  async #reserve(version: number): Promise<void> {
    const BLOCK = 1000;
    await reserveWraps(this.#store, version, BLOCK);
    this.#left.set(version, (this.#left.get(version) ?? 0) + BLOCK);
  }
}
