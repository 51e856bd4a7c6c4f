import { countReads, type ReadCounts } from "../store/operations.ts";
import type { Store } from "../store/store.ts";

/**
 * Whether services are at work on the collection that a rotation is moving, by MongoDB's own count of reads less those of the
 * rotation. Until that is known, and where it cannot be, they are; what was found of one collection holds for the next until then.
 */
export class ForegroundTraffic {
  readonly #store: Store;
  #collection: string | undefined;
  #counts: ReadCounts | undefined;
  #at = Number.NEGATIVE_INFINITY;
  /** Reads by this rotation since it last looked. */
  #own = 0;
  #found: boolean | undefined;
  /** Looks in a row that showed nothing. */
  #misses = 0;

  constructor(store: Store) {
    this.#store = store;
  }

  get busy(): boolean {
    return this.#found !== false;
  }

  /** Whether somebody was seen at work: more than not knowing better. */
  get seen(): boolean {
    return this.#found === true;
  }

  /** Whether MongoDB does not say: once may be a moment in which it is unavailable. */
  get unseen(): boolean {
    return this.#misses > 1;
  }

  /** The rotation has read once itself. */
  read(): void {
    this.#own += 1;
  }

  /** Looks when it is time to. */
  async look(collection: string): Promise<void> {
    const now = performance.now();
    if (collection !== this.#collection) {
      this.#collection = collection;
      this.#counts = undefined;
    } else if (now - this.#at < (this.busy ? SOON_MS : LOOK_MS)) return;
    const counts = await countReads(this.#store, collection);
    if (counts === undefined) this.#found = undefined;
    else if (this.#counts !== undefined) {
      // A look counts as a read of the next one.
      this.#found = othersRead(this.#counts, counts, this.#own + 1, now - this.#at);
    }
    this.#misses = counts === undefined ? this.#misses + 1 : 0;
    this.#counts = counts;
    this.#at = now;
    this.#own = 0;
  }
}

/**
 * Whether somebody else has read: pure. A count or two may be of a moment before.
 * @param own reads by the rotation: each counts once on every shard that it goes to.
 */
export function othersRead(before: ReadCounts, after: ReadCounts, own: number, ms: number): boolean {
  return [...after].some(([where, count]) => {
    const had = before.get(where);
    return had !== undefined && count - had - own > NOISE + (READS_A_SECOND * ms) / 1000;
  });
}

// ---------------------------------------------------------------------------------------------------------------------

/** While the rotation holds back it looks more often whether it still has to. */
const SOON_MS = 250;
const LOOK_MS = 1000;
/** Fewer are not felt as a service; who watches the rotation reads now and then too. */
const READS_A_SECOND = 10;
const NOISE = 2;
