/**
 * How long values have been seen unchanged, by this process's monotonic clock: what a clock that was set back cannot tell.
 * Between two looks at most `longestStepMs` counts, so neither a suspended machine nor a MongoDB that did not answer makes a
 * living process look silent: it gets the chance to change its value first.
 */
export class ChangeTimer {
  readonly #longestStepMs: number;
  #seen = new Map<string, { value: number; ms: number }>();
  #lookedAt: number | undefined;

  constructor(longestStepMs: number) {
    this.#longestStepMs = longestStepMs;
  }

  /**
   * Takes in what is there now. What is missing is forgotten, and begins again when it comes back.
   * @param values by the name of what has them.
   */
  look(values: Iterable<readonly [string, number]>, now = performance.now()): void {
    const step = this.#lookedAt === undefined ? 0 : Math.min(now - this.#lookedAt, this.#longestStepMs);
    const before = this.#seen;
    this.#seen = new Map();
    for (const [name, value] of values) {
      const known = before.get(name);
      this.#seen.set(name, { value, ms: known?.value === value ? known.ms + step : 0 });
    }
    this.#lookedAt = now;
  }

  /** For how long it has had its value, in milliseconds; zero for what was not there. */
  ms(name: string): number {
    return this.#seen.get(name)?.ms ?? 0;
  }
}
