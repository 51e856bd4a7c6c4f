import type { Provider } from "../providers/provider.ts";
import type { Context, Reporter } from "./context.ts";
import { ForegroundTraffic } from "./foreground.ts";
import { RateLimit } from "./rate_limit.ts";
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
  readonly #told = new Set<Found>();

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

  #tell(found: Found, why: string): void {
    if (this.#told.has(found)) return;
    this.#told.add(found);
    const rests = found === "seen" && !this.#limited ? " and with rests" : "";
    this.#reporter.note(
      `${why}: records move a batch at a time${rests}, to leave MongoDB room (run with --concurrency=${this.#workers.count} to keep all workers at work)`,
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

type Found = "seen" | "unseen";

const GENTLY = 250;
/** Of the time that the batch took. */
const REST = 0.5;
/** A cancelled rotation waits for it. */
const LONGEST_REST_MS = 1000;
