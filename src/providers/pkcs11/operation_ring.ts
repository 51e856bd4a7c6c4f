/**
 * Operations on their way to the thread of a session, and their answers on the reverse rotation, in memory that both threads share. The
 * session's thread blocks for its next request, because a message between threads costs more than a call of a fast token.
 * Requests are answered in order.
 */

/** One in work, and the next one. */
export const REQUESTS_AHEAD = 2;
export const MOST_OPERATIONS = 32;
export const REQUEST_BYTES = 32 * 1024;
/** Room for an error message for each operation. */
export const ANSWER_BYTES = MOST_OPERATIONS * 4096;

/** `signal` changes with each request and each message. `parked`: the session's thread is in its event loop. */
const WORD = { signal: 0, asked: 1, answered: 2, messages: 3, parked: 4, lengths: 6, retryForMs: 8 } as const;
const HEAD_BYTES = 64;
/** Of the 64-bit numbers in the head, behind the words. */
const CALL_MS = 6;
const SLOT_BYTES = REQUEST_BYTES + ANSWER_BYTES;

export class OperationRing {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #callMs: Float64Array;
  readonly #requests: Uint8Array[];
  readonly #answers: Uint8Array[];
  /** What this side has handled: answers taken here, or messages received there. */
  #handled = 0;

  /** @param memory of the other side; without it this is a new one. */
  constructor(memory?: SharedArrayBuffer) {
    this.memory = memory ?? new SharedArrayBuffer(HEAD_BYTES + REQUESTS_AHEAD * SLOT_BYTES);
    this.#words = new Int32Array(this.memory, 0, HEAD_BYTES / 4);
    this.#callMs = new Float64Array(this.memory, CALL_MS * 8, REQUESTS_AHEAD);
    const slots = Array.from({ length: REQUESTS_AHEAD }, (_, slot) => HEAD_BYTES + slot * SLOT_BYTES);
    this.#requests = slots.map((at) => new Uint8Array(this.memory, at, REQUEST_BYTES));
    this.#answers = slots.map((at) => new Uint8Array(this.memory, at + REQUEST_BYTES, ANSWER_BYTES));
    if (memory === undefined) Atomics.store(this.#words, WORD.parked, 1);
  }

  // ------------------------------------------------------------------------------------- the thread that gives the work

  /** @param write fills a request and returns its length. @returns whether the session's thread must be woken by a message. */
  ask(retryForMs: number, write: (into: Uint8Array) => number): boolean {
    const asked = Atomics.load(this.#words, WORD.asked);
    const slot = slotOf(asked);
    this.#words[WORD.lengths + slot] = write(this.#requests[slot] as Uint8Array);
    this.#words[WORD.retryForMs + slot] = retryForMs;
    Atomics.store(this.#words, WORD.asked, asked + 1);
    this.#signal();
    return Atomics.exchange(this.#words, WORD.parked, 0) === 1;
  }

  /** Before each message: the session's thread returns to its event loop for it. */
  announceMessage(): void {
    Atomics.add(this.#words, WORD.messages, 1);
    this.#signal();
  }

  /** The next answer. It is valid until this thread asks again. @param callMs the shortest time of a call into the module. */
  take(): { bytes: Uint8Array; callMs: number } | undefined {
    if (this.#handled === Atomics.load(this.#words, WORD.answered)) return undefined;
    const slot = slotOf(this.#handled);
    this.#handled = (this.#handled + 1) | 0;
    const bytes = (this.#answers[slot] as Uint8Array).subarray(0, this.#words[WORD.lengths + slot]);
    return { bytes, callMs: this.#callMs[slot] as number };
  }

  // ------------------------------------------------------------------------------------------- the thread of the session

  messageReceived(): void {
    this.#handled = (this.#handled + 1) | 0;
  }

  /**
   * Blocks until there is a request, for a moment.
   * @returns undefined when the thread must return to its event loop: a message comes, or there was no request for a while.
   */
  next(): { bytes: Uint8Array; retryForMs: number } | undefined {
    for (let waited = false; ; waited = true) {
      const signal = Atomics.load(this.#words, WORD.signal);
      if (this.#handled !== Atomics.load(this.#words, WORD.messages)) return undefined;
      const answered = Atomics.load(this.#words, WORD.answered);
      if (answered !== Atomics.load(this.#words, WORD.asked)) {
        const slot = slotOf(answered);
        const bytes = (this.#requests[slot] as Uint8Array).subarray(0, this.#words[WORD.lengths + slot]);
        return { bytes, retryForMs: this.#words[WORD.retryForMs + slot] as number };
      }
      if (waited && Atomics.exchange(this.#words, WORD.parked, 1) === 1) return undefined;
      // Parked above, and looked once more since: whoever asks from now on sends a message.
      if (waited) continue;
      Atomics.wait(this.#words, WORD.signal, signal, LINGER_MS);
    }
  }

  answer(bytes: Uint8Array, callMs: number): void {
    const answered = Atomics.load(this.#words, WORD.answered);
    const slot = slotOf(answered);
    (this.#answers[slot] as Uint8Array).set(bytes);
    this.#words[WORD.lengths + slot] = bytes.length;
    this.#callMs[slot] = callMs;
    Atomics.store(this.#words, WORD.answered, answered + 1);
  }

  #signal(): void {
    Atomics.add(this.#words, WORD.signal, 1);
    Atomics.notify(this.#words, WORD.signal);
  }
}

/** Tells the thread that gives the work that there are answers: one message for all sessions that answer at about the same time. */
export class AnswerBell {
  readonly memory: SharedArrayBuffer;
  readonly #word: Int32Array;

  constructor(memory = new SharedArrayBuffer(4)) {
    this.memory = memory;
    this.#word = new Int32Array(memory);
  }

  /** @returns whether a message must be sent: none is on its way. */
  ring(): boolean {
    return Atomics.exchange(this.#word, 0, 1) === 0;
  }

  /** Before the answers are taken. */
  silence(): void {
    Atomics.store(this.#word, 0, 0);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** @param count of requests, which wraps around at 32 bits. */
function slotOf(count: number): number {
  return (count >>> 0) % REQUESTS_AHEAD;
}

/** How long a session's thread blocks for its next request before it returns to its event loop. */
const LINGER_MS = 20;
