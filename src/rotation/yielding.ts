import type { Context, Reporter } from "./context.ts";
import { Foreground } from "./foreground.ts";
import type { Lanes } from "./lanes.ts";
import { RateLimit } from "./rate_limit.ts";

/** How much of MongoDB a rewrap takes: all that it can get, unless a rate was asked for or services are at work. */

export interface YieldingOptions {
  batchSize: number;
  /** All lanes are used, also while services are at work. */
  allLanes: boolean;
  /** Records a second, or undefined for as fast as it goes. */
  maxRate: number | undefined;
}

export class Yielding {
  /** Records that MongoDB is asked for at once. */
  readonly batchSize: number;
  readonly #limit: RateLimit;
  readonly #limited: boolean;
  readonly #foreground: Foreground;
  readonly #lanes: Lanes;
  readonly #adjusts: boolean;
  readonly #reporter: Reporter;
  #told = false;

  constructor({ store, provider }: Context, lanes: Lanes, options: YieldingOptions, reporter: Reporter) {
    this.#limit = new RateLimit(options.maxRate);
    this.#limited = options.maxRate !== undefined;
    this.batchSize = this.#limit.portion(options.batchSize);
    this.#foreground = new Foreground(store);
    this.#lanes = lanes;
    // A rotation that waits for a token leaves room as it is.
    this.#adjusts = !options.allLanes && provider.computes;
    this.#reporter = reporter;
  }

  /** Records that a lane writes at once: what is journaled in one go is waited for by the writes of services too. */
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
    const found = await this.#foreground.look(collection);
    if (!this.#adjusts) return;
    this.#lanes.atMost(this.#foreground.busy ? 1 : Number.POSITIVE_INFINITY);
    if (found === true) this.#tell(collection);
  }

  /** What a batch that took so long is to wait before it makes place for the next: the time in which services find MongoDB idle. */
  async rest(ms: number): Promise<void> {
    if (!this.#adjusts || this.#limited || !this.#foreground.busy) return;
    const restMs = Math.min(LONGEST_REST_MS, ms * REST);
    await new Promise((resolve) => setTimeout(resolve, restMs));
  }

  // -------------------------------------------------------------------------------------------------------------------

  #tell(collection: string): void {
    if (this.#told) return;
    this.#told = true;
    this.#reporter.note(
      `somebody reads ${collection} meanwhile: records move a batch at a time and with rests, to leave MongoDB room for that (--concurrency=${this.#lanes.count} goes at full speed)`,
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const GENTLY = 250;
/** Of the time that the batch took. */
const REST = 0.5;
/** A cancelled rotation waits for it. */
const LONGEST_REST_MS = 1000;
