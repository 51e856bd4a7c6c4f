import type { Store } from "../store/store.ts";
import { reserveWraps } from "../store/versions.ts";

/** So many at first, and again after a rest. */
const SMALLEST_BLOCK = 1000;
/** What a crash may count too much, twice, of the 2^32 that a version has. */
const LARGEST_BLOCK = 64_000;
/** A block that is half used up sooner is followed by one of twice the size: asking for each thousand costs as much as making them. */
const SOON_MS = 1000;

/** What is left to wrap under one version, and the blocks it comes in. */
interface Left {
  wraps: number;
  block: number;
  grantedAt: number;
  reserving: Promise<void> | undefined;
}

/** Wraps are counted in blocks before they are made, so that a crash can only over-count (NIST SP 800-38D, 8.3). */
export class WrapBudget {
  readonly #store: Store;
  readonly #left = new Map<number, Left>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** Takes one wrap under a version, if there is one at hand. */
  takeNow(version: number): boolean {
    const left = this.#left.get(version);
    if (left === undefined || left.wraps === 0) return false;
    left.wraps -= 1;
    // The next block is asked for before it is needed. What goes wrong is met again, and told, by whoever finds none left.
    if (left.wraps === left.block >> 1) this.#reserve(version, left).catch(() => undefined);
    return true;
  }

  /** Takes one wrap under a version; waits for MongoDB when none is at hand. @throws KekError `wrap_limit_reached`. */
  async take(version: number): Promise<void> {
    while (!this.takeNow(version)) {
      const left = this.#left.get(version) ?? { wraps: 0, block: 0, grantedAt: 0, reserving: undefined };
      this.#left.set(version, left);
      await this.#reserve(version, left);
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** Whoever finds none left at the same time shares the next block. */
  #reserve(version: number, left: Left): Promise<void> {
    left.reserving ??= this.#grant(version, left).finally(() => {
      left.reserving = undefined;
    });
    return left.reserving;
  }

  async #grant(version: number, left: Left): Promise<void> {
    const soon = performance.now() - left.grantedAt < SOON_MS;
    const block = soon ? Math.min(Math.max(SMALLEST_BLOCK, left.block * 2), LARGEST_BLOCK) : SMALLEST_BLOCK;
    const granted = await reserveWraps(this.#store, version, block);
    // Not in one line with the await: wraps are taken meanwhile.
    left.wraps += granted;
    left.block = block;
    left.grantedAt = performance.now();
  }
}
