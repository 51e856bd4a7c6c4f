/** The bucket's size: what goes at once is felt by whoever else uses the database. */
const BUCKET_S = 0.05;

/** At most so many records a second: a token bucket that holds a moment's worth. */
export class RateLimit {
  readonly #rate: number | undefined;
  #allowance = 0;
  #at = performance.now();

  constructor(rate: number | undefined) {
    this.#rate = rate;
  }

  /** How many records are to go at once, of so many that may: no more than a moment's worth. */
  portion(most: number): number {
    return this.#rate === undefined ? most : Math.max(1, Math.min(most, Math.round(this.#rate * BUCKET_S)));
  }

  /** Waits until `count` more records may go. A batch larger than the bucket is paid for afterwards. */
  async take(count: number): Promise<void> {
    if (this.#rate === undefined) return;
    this.#refill(this.#rate);
    if (this.#allowance < 0) {
      await new Promise((resolve) => setTimeout(resolve, (-this.#allowance / (this.#rate as number)) * 1000));
      this.#refill(this.#rate);
    }
    this.#allowance -= count;
  }

  #refill(rate: number): void {
    const now = performance.now();
    this.#allowance = Math.min(rate * BUCKET_S, this.#allowance + ((now - this.#at) / 1000) * rate);
    this.#at = now;
  }
}
