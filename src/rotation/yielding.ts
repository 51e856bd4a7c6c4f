import type { Store } from "../store/store.ts";
import type { Reporter } from "./context.ts";
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

  constructor(store: Store, lanes: Lanes, options: YieldingOptions, reporter: Reporter) {
    this.#limit = new RateLimit(options.maxRate);
    this.#limited = options.maxRate !== undefined;
    this.batchSize = this.#limit.portion(options.batchSize);
    this.#foreground = new Foreground(store);
    this.#lanes = lanes;
    this.#adjusts = !options.allLanes && lanes.count > 1;
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

  /** Waits until so many records may go. While services are at work they go by one lane: MongoDB has a processor more for them. */
  async take(count: number, collection: string): Promise<void> {
    await this.#limit.take(count);
    const found = await this.#foreground.look(collection);
    if (!this.#adjusts) return;
    this.#lanes.useAtMost(this.#foreground.busy ? 1 : this.#lanes.count);
    if (found === true) this.#tell(collection);
  }

  // -------------------------------------------------------------------------------------------------------------------

  #tell(collection: string): void {
    if (this.#told) return;
    this.#told = true;
    this.#reporter.note(
      `somebody reads ${collection} meanwhile: records move by one lane, to leave MongoDB room for that (--concurrency=${this.#lanes.count} uses all lanes)`,
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const GENTLY = 250;
