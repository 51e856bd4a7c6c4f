/**
 * When a coordinator's lease ends, by MongoDB's clock, for its workers' threads: each batch is put to MongoDB on the condition
 * that it is not over. A thread that wakes late sends what it has in hand all the same, and then nothing matches.
 */
export class LeaseEnd {
  /** Milliseconds since 1970; zero before the first renewal. Goes from thread to thread. */
  readonly shared: SharedArrayBuffer;
  readonly #ms: BigInt64Array;

  constructor(shared = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT)) {
    this.shared = shared;
    this.#ms = new BigInt64Array(shared);
  }

  get date(): Date {
    return new Date(Number(Atomics.load(this.#ms, 0)));
  }

  set(date: Date): void {
    Atomics.store(this.#ms, 0, BigInt(date.getTime()));
  }
}
