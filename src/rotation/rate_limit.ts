/** At most so many records a second: a token bucket that holds one second's worth. */
export class RateLimit {
  readonly #rate: number | undefined;
  #allowance: number;
  #at = performance.now();

  constructor(rate: number | undefined) {
    this.#rate = rate;
    this.#allowance = rate ?? 0;
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
    this.#allowance = Math.min(rate, this.#allowance + ((now - this.#at) / 1000) * rate);
    this.#at = now;
  }
}
