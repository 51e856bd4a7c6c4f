import { setTimeout as sleep } from "node:timers/promises";
import type { Provider } from "../providers/provider.ts";
import { countReads, type ReadCounts } from "../store/read_counts.ts";
import type { Store } from "../store/store.ts";
import type { Context, Reporter } from "./context.ts";
import type { RewrapWorkers } from "./rewrap_workers.ts";

/** How much of MongoDB a rewrap takes: all that it can get, unless a rate was asked for or services are at work. */

export interface ThrottleOptions {
  batchSize: number;
  /** All workers are used, also while services are at work. */
  fullConcurrency: boolean;
  /** Records a second, or undefined for as fast as it goes. */
  maxRate: number | undefined;
}

/** What a rewrap's pace is held by. */
type ThrottledWorkers = Pick<RewrapWorkers, "atMost" | "count">;

export class Throttle {
  /** Records that MongoDB is asked for at once. */
  readonly batchSize: number;
  readonly #limit: RateLimit;
  readonly #limited: boolean;
  readonly #foreground: ForegroundTraffic;
  readonly #workers: ThrottledWorkers;
  readonly #adjusts: boolean;
  readonly #reporter: Reporter;
  /** What was told: each thing once, of whichever collection it was found first. */
  readonly #told = new Set<TrafficNote>();

  constructor(
    { store, provider }: Pick<Context, "store"> & { provider: Pick<Provider, "computes"> },
    workers: ThrottledWorkers,
    options: ThrottleOptions,
    reporter: Reporter,
  ) {
    this.#limit = new RateLimit(options.maxRate);
    this.#limited = options.maxRate !== undefined;
    const most = this.#limit.portion(options.batchSize);
    // Read what is written in whole portions: a remainder would be a command, and a wait for the journal, of its own.
    this.batchSize = this.#limited && most > GENTLY ? most - (most % GENTLY) : most;
    this.#foreground = new ForegroundTraffic(store);
    this.#workers = workers;
    // A rotation that waits for a token leaves room as it is.
    this.#adjusts = !options.fullConcurrency && provider.computes;
    this.#reporter = reporter;
  }

  /** Records that a worker writes at once: what is journaled in one go is waited for by the writes of services too. */
  get portion(): number {
    const gently = this.#limited || this.#foreground.busy;
    return gently ? Math.min(this.batchSize, GENTLY) : this.batchSize;
  }

  /** The rewrap has read the collection once itself. */
  read(): void {
    this.#foreground.read();
  }

  /** Waits until so many records may go. While services are at work, one batch does at a time: what else computes has a processor. */
  async take(count: number, collection: string): Promise<void> {
    await this.#limit.take(count);
    await this.#foreground.look(collection);
    if (!this.#adjusts) return;
    this.#workers.atMost(this.#foreground.busy ? 1 : Number.POSITIVE_INFINITY);
    if (this.#foreground.seen) this.#tell("seen", `somebody reads ${collection} meanwhile`);
    else if (this.#foreground.unseen) this.#tell("unseen", `who reads ${collection} cannot be seen ($collStats)`);
  }

  /** How long a batch that took so long is to keep its place: services find MongoDB idle meanwhile. */
  restAfter(ms: number): number {
    // Whoever asked for a rate has said what is left to services; and nobody rests for services that nobody sees.
    const rests = this.#adjusts && !this.#limited && this.#foreground.seen;
    return rests ? Math.min(LONGEST_REST_MS, ms * REST) : 0;
  }

  // -------------------------------------------------------------------------------------------------------------------

  #tell(found: TrafficNote, why: string): void {
    if (this.#told.has(found)) return;
    this.#told.add(found);
    const rests = found === "seen" && !this.#limited ? " and with rests" : "";
    this.#reporter.note(
      `${why}: records move a batch at a time${rests}, to leave MongoDB room (run with --concurrency=${this.#workers.count} to keep all workers at work)`,
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

type TrafficNote = "seen" | "unseen";

const GENTLY = 250;
/** Of the time that the batch took. */
const REST = 0.5;
/** A cancelled rotation waits for it. */
const LONGEST_REST_MS = 1000;

// ---------------------------------------------------------------------------------------------------------------------

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

// ---------------------------------------------------------------------------------------------------------------------

/** The bucket's size: what goes at once is felt by whoever else uses the database. */
const BUCKET_S = 0.05;

/** At most so many records a second: a token bucket that holds a moment's worth. */
export class RateLimit {
  readonly #rate: number | undefined;
  #allowance = 0;
  #at = performance.now();

  constructor(rate: number | undefined) {
    this.#rate = rate;
  }

  /** How many records are to go at once, of so many that may: no more than a moment's worth. */
  portion(most: number): number {
    return this.#rate === undefined ? most : Math.max(1, Math.min(most, Math.round(this.#rate * BUCKET_S)));
  }

  /** Waits until `count` more records may go. A batch larger than the bucket is paid for afterwards. */
  async take(count: number): Promise<void> {
    if (this.#rate === undefined) return;
    this.#refill(this.#rate);
    if (this.#allowance < 0) {
      await sleep((-this.#allowance / (this.#rate as number)) * 1000);
      this.#refill(this.#rate);
    }
    this.#allowance -= count;
  }

  #refill(rate: number): void {
    const now = performance.now();
    this.#allowance = Math.min(rate * BUCKET_S, this.#allowance + ((now - this.#at) / 1000) * rate);
    this.#at = now;
  }
}
