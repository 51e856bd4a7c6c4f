import type { TokenCounts } from "../provider.ts";
import type { FaultKind } from "./token_fault.ts";

/** What the sessions of one process do with a token and which faults they see, counted in memory that their threads share. */

/** A kind of fault, or a wrap that did not give the data key back. */
export type CountedFault = FaultKind | "wrap_mismatch";

const FAULTS: CountedFault[] = [
  "lost",
  "module",
  "pin",
  "unsupported",
  "no_session",
  "data",
  "unavailable",
  "wrap_mismatch",
];
const WORDS = ["uses", "opened", "open", "busy", ...FAULTS] as const;
type Word = (typeof WORDS)[number];

export class TokenCounters {
  readonly memory: SharedArrayBuffer;
  readonly #words: BigInt64Array;

  /** @param memory of another thread's counters; without it this is a new one. */
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(WORDS.length * BigInt64Array.BYTES_PER_ELEMENT)) {
    this.memory = memory;
    this.#words = new BigInt64Array(memory);
  }

  fault(kind: CountedFault): void {
    this.#add(kind, 1n);
  }

  opened(): void {
    this.#add("opened", 1n);
    this.#add("open", 1n);
  }

  closed(): void {
    this.#add("open", -1n);
  }

  /** Surrounds so many pieces of work in a session: a share of them, for counting each one alone costs as much as a call. */
  using<T>(pieces: number, work: () => T): T {
    this.#add("uses", BigInt(pieces));
    this.#add("busy", 1n);
    try {
      return work();
    } finally {
      this.#add("busy", -1n);
    }
  }

  read(): Pick<TokenCounts, "uses" | "opened" | "open" | "busy" | "faults"> {
    return {
      uses: this.#read("uses"),
      opened: this.#read("opened"),
      open: this.#read("open"),
      busy: this.#read("busy"),
      faults: Object.fromEntries(FAULTS.map((kind) => [kind, this.#read(kind)])),
    };
  }

  #add(word: Word, count: bigint): void {
    Atomics.add(this.#words, WORDS.indexOf(word), count);
  }

  #read(word: Word): number {
    return Number(Atomics.load(this.#words, WORDS.indexOf(word)));
  }
}
