import { Buffer } from "node:buffer";

/**
 * What the threads of a process know of one token and one source of its PIN, in memory that they share: whether the token was
 * there before, in which slot, and which PIN it refused.
 */

const WORD = {
  refused: 0,
  seen: 1,
  unclearLogins: 2,
  notFound: 3,
  slotEpoch: 4,
  slotBytes: 5,
  workingEpoch: 6,
  working: 7,
} as const;
/** Of the 64-bit words behind the 32-bit ones. */
const LONG = { slot: 0, refusedChange: 1 } as const;
const LONGS_AT = 32;

export class TokenState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #longs: BigInt64Array;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(LONGS_AT + 16)) {
    this.memory = memory;
    this.#words = new Int32Array(memory, 0, LONGS_AT / 4);
    this.#longs = new BigInt64Array(memory, LONGS_AT);
  }

  /** @param change identity of the file that the PIN was read from. @returns the code with which the token refused it, or 0. */
  refusedFor(change: bigint): number {
    return Atomics.load(this.#longs, LONG.refusedChange) === change ? Atomics.load(this.#words, WORD.refused) : 0;
  }

  refuse(code: number, change: bigint): void {
    Atomics.store(this.#longs, LONG.refusedChange, change);
    Atomics.store(this.#words, WORD.refused, code);
  }

  /** Counts a login that failed without a word about the PIN. @returns how many there were. */
  countUnclearLogin(): number {
    return Atomics.add(this.#words, WORD.unclearLogins, 1) + 1;
  }

  /** Counts a look at the module's tokens that did not find this one. @returns how many there were. */
  countNotFound(): number {
    return Atomics.add(this.#words, WORD.notFound, 1) + 1;
  }

  /** Whether the token was ever there: then it is unavailable for a while, and its label is not wrong. */
  get seen(): boolean {
    return Atomics.load(this.#words, WORD.seen) === 1;
  }

  /** A PIN that works now is not called in doubt later. */
  markSeen(): void {
    Atomics.store(this.#words, WORD.seen, 1);
    Atomics.store(this.#words, WORD.unclearLogins, 0);
  }

  /** @returns the slot in which the token was found since the module was last initialised. */
  slot(epoch: number): Buffer | undefined {
    if (Atomics.load(this.#words, WORD.slotEpoch) !== epoch + 1) return undefined;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(Atomics.load(this.#longs, LONG.slot));
    return bytes.subarray(0, Atomics.load(this.#words, WORD.slotBytes));
  }

  keepSlot(slot: Buffer, epoch: number): void {
    const bytes = Buffer.alloc(8);
    slot.copy(bytes);
    Atomics.store(this.#longs, LONG.slot, bytes.readBigInt64LE());
    Atomics.store(this.#words, WORD.slotBytes, Math.min(8, slot.length));
    Atomics.store(this.#words, WORD.slotEpoch, epoch + 1);
  }

  /** Sessions of this process with this token that are open and whose last call went well. */
  get working(): number {
    return Atomics.load(this.#words, WORD.working);
  }

  /** Before a session is opened, one thread at a time: the sessions of an older epoch ended with it. */
  startEpoch(epoch: number): void {
    if (Atomics.exchange(this.#words, WORD.workingEpoch, epoch + 1) !== epoch + 1)
      Atomics.store(this.#words, WORD.working, 0);
  }

  /** A session works, or no longer does. @param epoch in which it was opened. */
  count(by: 1 | -1, epoch: number): void {
    if (Atomics.load(this.#words, WORD.workingEpoch) === epoch + 1) Atomics.add(this.#words, WORD.working, by);
  }

  forgetSlot(): void {
    Atomics.store(this.#words, WORD.slotEpoch, 0);
  }
}
