/** When something that failed may be tried again: later and later, until it works. */
export class Backoff {
  #waitMs = FIRST_WAIT_MS;
  #until = Number.NEGATIVE_INFINITY;

  /** Whether it may be tried now. */
  get over(): boolean {
    return performance.now() >= this.#until;
  }

  /** Whether it has not worked since it failed. */
  get failing(): boolean {
    return this.#waitMs !== FIRST_WAIT_MS;
  }

  failed(): void {
    // Attempts that were made together fail together.
    if (!this.over) return;
    this.#until = performance.now() + this.#waitMs;
    this.#waitMs = Math.min(LONGEST_WAIT_MS, this.#waitMs * 2);
  }

  worked(): void {
    this.#waitMs = FIRST_WAIT_MS;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
