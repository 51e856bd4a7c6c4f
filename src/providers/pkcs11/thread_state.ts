/** What the thread of a session and the thread that gives it work tell each other, in memory that both see, also during a call. */

const WORD = { calls: 0, starting: 1, open: 2, closing: 3 } as const;

export class ThreadState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  /** @param memory of the other side; without it this is a new one. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(16)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** Grows with each call into the module: while it does not change, a call has not returned. */
  get calls(): number {
    return Atomics.load(this.#words, WORD.calls);
  }

  called(): void {
    Atomics.add(this.#words, WORD.calls, 1);
  }

  /** Whether the module is being initialised, a session opened, or the user logged in: these calls may take longer. */
  get starting(): boolean {
    return Atomics.load(this.#words, WORD.starting) === 1;
  }

  set starting(is: boolean) {
    Atomics.store(this.#words, WORD.starting, is ? 1 : 0);
  }

  /** Whether the thread has a session. */
  get open(): boolean {
    return Atomics.load(this.#words, WORD.open) === 1;
  }

  set open(is: boolean) {
    Atomics.store(this.#words, WORD.open, is ? 1 : 0);
  }

  /** Whether the thread is asked to end: then it opens no session and logs nobody in. */
  get closing(): boolean {
    return Atomics.load(this.#words, WORD.closing) === 1;
  }

  close(): void {
    Atomics.store(this.#words, WORD.closing, 1);
  }
}
