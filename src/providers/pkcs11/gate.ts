/**
 * What the threads of one process must agree on about one PKCS#11 module, in memory that they share. A login counts for the
 * whole process, C_Initialize and C_Finalize are for the whole process and not safe beside other calls (PKCS#11 v2.40
 * Base, sections 2.6 and 5.4), and a refused PIN must not be tried again by the next thread.
 */

const WORD = { mutex: 0, users: 1, closing: 2, epoch: 3, owned: 4, threads: 5, renewedAt: 6 } as const;
const WORDS = 7;

export class Gate {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  /** @param memory of another thread's gate; without it this is a new one. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(WORDS * 4)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** Grows with each C_Initialize: sessions of an older epoch are gone. */
  get epoch(): number {
    return Atomics.load(this.#words, WORD.epoch);
  }

  /** One thread at a time: loading, C_Initialize, opening sessions, logging in. Blocks; for worker threads only. */
  exclusively<T>(work: () => T): T {
    while (Atomics.compareExchange(this.#words, WORD.mutex, 0, 1) !== 0) Atomics.wait(this.#words, WORD.mutex, 1);
    try {
      return work();
    } finally {
      Atomics.store(this.#words, WORD.mutex, 0);
      Atomics.notify(this.#words, WORD.mutex, 1);
    }
  }

  /** Surrounds every use of a session, so that the module is never finalized under it. */
  inside<T>(work: () => T): T {
    for (;;) {
      while (Atomics.load(this.#words, WORD.closing) === 1) Atomics.wait(this.#words, WORD.closing, 1);
      Atomics.add(this.#words, WORD.users, 1);
      if (Atomics.load(this.#words, WORD.closing) === 0) break;
      this.#leave();
    }
    try {
      return work();
    } finally {
      this.#leave();
    }
  }

  /** A thread begins to use the module. Within `exclusively`. @param initialize says whether it was first in the process. */
  join(initialize: () => boolean): void {
    const initialized = initialize();
    const first = Atomics.add(this.#words, WORD.threads, 1) === 0;
    if (first) Atomics.store(this.#words, WORD.owned, initialized ? 1 : 0);
    // It had been finalized under the others: what they hold is of a module that is no more.
    else if (initialized) Atomics.add(this.#words, WORD.epoch, 1);
  }

  /** A thread is done; the last one finalizes the module, if it was this program that initialized it. */
  part(finalize: () => void): void {
    this.exclusively(() => {
      if (Atomics.sub(this.#words, WORD.threads, 1) === 1 && Atomics.load(this.#words, WORD.owned) === 1) finalize();
    });
  }

  /**
   * Finalizes and initializes the module again: the way back after its daemon was restarted. Waits until no thread is inside;
   * does nothing when one stays there, when another thread has just done it, or when the module is not ours.
   */
  renew(epoch: number, patienceMs: number, work: () => void): void {
    this.exclusively(() => {
      const seconds = Math.floor(Date.now() / 1000) | 0;
      const since = seconds - Atomics.load(this.#words, WORD.renewedAt);
      if (this.epoch !== epoch || Atomics.load(this.#words, WORD.owned) === 0 || (since >= 0 && since < RENEW_S))
        return;
      Atomics.store(this.#words, WORD.closing, 1);
      try {
        Atomics.store(this.#words, WORD.renewedAt, seconds);
        const until = performance.now() + patienceMs;
        for (let users = this.#users(); users > 0; users = this.#users()) {
          if (performance.now() > until) return;
          Atomics.wait(this.#words, WORD.users, users, 50);
        }
        // Before the work: should it end half-way, no handle of before is used in what comes after.
        Atomics.add(this.#words, WORD.epoch, 1);
        work();
      } finally {
        Atomics.store(this.#words, WORD.closing, 0);
        Atomics.notify(this.#words, WORD.closing);
      }
    });
  }

  #users(): number {
    return Atomics.load(this.#words, WORD.users);
  }

  #leave(): void {
    Atomics.sub(this.#words, WORD.users, 1);
    if (Atomics.load(this.#words, WORD.closing) === 1) Atomics.notify(this.#words, WORD.users);
  }
}

/** Seconds between two renewals: a token that stays away is not hammered. */
const RENEW_S = 2;

/** What the threads of a process know of one token and PIN. */
export class LoginMemory {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(16)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** The code with which the token refused the PIN, or 0. Nobody in this process tries it again. */
  get refused(): number {
    return Atomics.load(this.#words, 0);
  }

  refuse(code: number): void {
    Atomics.store(this.#words, 0, code);
  }

  /** Counts a login that failed without a word about the PIN. @returns how many there were. */
  doubt(): number {
    return Atomics.add(this.#words, 2, 1) + 1;
  }

  /** Counts a look at the module's tokens that did not find this one. @returns how many there were. */
  miss(): number {
    return Atomics.add(this.#words, 3, 1) + 1;
  }

  /** Whether the token was ever there: then it is gone for a while, and not a wrong label. */
  get met(): boolean {
    return Atomics.load(this.#words, 1) === 1;
  }

  meet(): void {
    Atomics.store(this.#words, 1, 1);
  }
}

/** Sleeps without an event loop. */
export function block(ms: number): void {
  if (ms > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
