/**
 * What the threads of one process must agree on about one PKCS#11 module, in memory that they share. A login counts for the
 * whole process, C_Initialize and C_Finalize are for the whole process and not safe beside other calls (PKCS#11 v2.40
 * Base, sections 2.6 and 5.4), and a refused PIN must not be tried again by the next thread.
 */

const WORD = {
  mutex: 0,
  users: 1,
  closing: 2,
  epoch: 3,
  owned: 4,
  threads: 5,
  renewedAt: 6,
  working: 7,
  renewEveryS: 8,
} as const;
const WORDS = 9;

export class ModuleLock {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  /** @param memory of another thread's lock; without it this is a new one. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(WORDS * 4)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** Grows with each C_Initialize: sessions of an older epoch have ended. */
  get epoch(): number {
    return Atomics.load(this.#words, WORD.epoch);
  }

  /** Sessions of this process that are open and whose last call went well. */
  get working(): number {
    return Atomics.load(this.#words, WORD.working);
  }

  /** A session works, or no longer does. Within `inside`. @param epoch in which it was opened; an older one does not count. */
  count(by: 1 | -1, epoch: number): void {
    if (epoch !== this.epoch) return;
    Atomics.add(this.#words, WORD.working, by);
    if (by === 1) Atomics.store(this.#words, WORD.renewEveryS, FIRST_RENEW_S);
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

  /**
   * A thread begins to use the module. Within `exclusively`. The first one initialises it; should it be finalised under the
   * others by another part of the process, their calls say so.
   * @param initialize says whether it was the first call in the process.
   */
  join(initialize: () => boolean): void {
    if (Atomics.load(this.#words, WORD.threads) === 0) Atomics.store(this.#words, WORD.owned, initialize() ? 1 : 0);
    Atomics.add(this.#words, WORD.threads, 1);
  }

  /** A thread is done; the last one finalizes the module, if it was this program that initialized it. */
  part(finalize: () => void): void {
    this.exclusively(() => {
      if (Atomics.sub(this.#words, WORD.threads, 1) === 1 && Atomics.load(this.#words, WORD.owned) === 1) finalize();
    });
  }

  /**
   * Finalises and initialises the module again, which its daemon may need after a restart. C_Finalize ends every session of the
   * process. So this does nothing while a session works, while a thread stays inside, when the module is not ours, and within
   * a backoff interval of the last time. The interval doubles until a session works.
   */
  renew(epoch: number, retryForMs: number, work: () => void): void {
    this.exclusively(() => {
      const seconds = Math.floor(Date.now() / 1000) | 0;
      const since = seconds - Atomics.load(this.#words, WORD.renewedAt);
      const every = Math.max(FIRST_RENEW_S, Atomics.load(this.#words, WORD.renewEveryS));
      if (this.epoch !== epoch || Atomics.load(this.#words, WORD.owned) === 0 || (since >= 0 && since < every)) return;
      if (this.working > 0) return;
      Atomics.store(this.#words, WORD.closing, 1);
      try {
        Atomics.store(this.#words, WORD.renewedAt, seconds);
        const until = performance.now() + retryForMs;
        for (let users = this.#users(); users > 0; users = this.#users()) {
          if (performance.now() > until) return;
          Atomics.wait(this.#words, WORD.users, users, 50);
        }
        // A call that ended while this thread waited may have gone well.
        if (this.working > 0) return;
        Atomics.store(this.#words, WORD.renewEveryS, Math.min(LONGEST_RENEW_S, every * 2));
        // Before the work: should it end half-way, no handle of before is used in what comes after.
        Atomics.add(this.#words, WORD.epoch, 1);
        Atomics.store(this.#words, WORD.working, 0);
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

/** Seconds between two renewals: at first, and at most. */
const FIRST_RENEW_S = 2;
const LONGEST_RENEW_S = 4;

/** Sleeps without an event loop. */
export function block(ms: number): void {
  if (ms > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
