import { countReads } from "../store/operations.ts";
import type { Store } from "../store/store.ts";

/**
 * Whether services are at work on the collections of a rotation while it moves their records, by MongoDB's own count of reads
 * less those of the rotation. Until that is known, and where it cannot be, they are.
 */
export class Foreground {
  readonly #store: Store;
  #collections: string[] = [];
  #seen: { reads: number; at: number } | undefined;
  /** Reads by this rotation since what was seen. */
  #own = 0;
  #found: boolean | undefined;

  constructor(store: Store) {
    this.#store = store;
  }

  get busy(): boolean {
    return this.#found !== false;
  }

  /** The collections to look at. */
  watch(collections: string[]): void {
    const wanted = [...new Set(collections)].sort();
    if (wanted.join("\0") === this.#collections.join("\0")) return;
    this.#collections = wanted;
    this.#seen = undefined;
  }

  /** The rotation has read once itself. */
  read(): void {
    this.#own += 1;
  }

  /** Looks when it is time to. @returns whether somebody was found at work; undefined while it is not known. */
  async look(): Promise<boolean | undefined> {
    const now = performance.now();
    const everyMs = this.busy ? SOON_MS : LOOK_MS;
    if (this.#seen !== undefined && now - this.#seen.at < everyMs) return this.#found;
    const reads = await countReads(this.#store, this.#collections);
    if (reads === undefined) this.#found = undefined;
    else if (this.#seen !== undefined)
      this.#found = othersRead(reads - this.#seen.reads, this.#own + this.#collections.length, now - this.#seen.at);
    this.#seen = reads === undefined ? undefined : { reads, at: now };
    this.#own = 0;
    return this.#found;
  }
}

/**
 * Whether somebody else has read: pure. A count or two may be of a moment before.
 * @param own reads by the rotation, looks at the count included.
 */
export function othersRead(reads: number, own: number, ms: number): boolean {
  return reads - own > NOISE + (READS_A_SECOND * ms) / 1000;
}

// ---------------------------------------------------------------------------------------------------------------------

/** While the rotation holds back it looks more often whether it still has to. */
const SOON_MS = 250;
const LOOK_MS = 1000;
/** Fewer are not felt as a service. */
const READS_A_SECOND = 4;
const NOISE = 2;
