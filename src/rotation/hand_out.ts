/** Who is free gets the next batch: each takes a few at a time, and all together no more than is allowed. Pure. */
export class WorkerQueue<T> {
  readonly #free: T[] = [];
  readonly #waiting: ((taken: T) => void)[] = [];
  #atWork = 0;
  #most = Number.POSITIVE_INFINITY;

  /** @param each how many batches each of them takes at a time. */
  constructor(all: T[], each: number) {
    for (let batch = 0; batch < each; batch += 1) this.#free.push(...all);
  }

  /** How many batches may be at work at once, of as many as all together take. What is at work beyond that is not disturbed. */
  atMost(batches: number): void {
    this.#most = batches;
    this.#go();
  }

  /** Waits for somebody who is free. Whoever is taken is given back, once. */
  async take(): Promise<T> {
    return await new Promise<T>((resolve) => {
      this.#waiting.push(resolve);
      this.#go();
    });
  }

  give(taken: T): void {
    this.#atWork -= 1;
    this.#free.push(taken);
    this.#go();
  }

  // -------------------------------------------------------------------------------------------------------------------

  #go(): void {
    while (this.#waiting.length > 0 && this.#atWork < this.#most) {
      // The one that was at work last: its code and data are warm.
      const next = this.#free.pop();
      if (next === undefined) return;
      this.#atWork += 1;
      this.#waiting.shift()?.(next);
    }
  }
}
