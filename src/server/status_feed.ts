import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { StatusView } from "../status/status_view.ts";
import { explainMongo } from "../store/mongodb_errors.ts";
import { within } from "../store/store.ts";

/** What was seen, and whether it can be seen now. */
export interface Sighting {
  /** The last view there was; undefined when there never was one. */
  view: StatusView | undefined;
  /** Why there is no newer one, since when by this process's clock. */
  fault: { error: KekError; since: Date } | undefined;
}

export interface FeedOptions {
  /** Whose errors are explained. */
  uri: string;
  log: Log;
  /** How long a read may take, in milliseconds: MongoDB may never answer. */
  limitMs?: number;
}

const POLL_MS = 1000;
/** A view is not read again before it is so old. */
const FRESH_MS = 900;

/**
 * One reader for all who look: the page, its events, /metrics. MongoDB is read once a second while somebody watches or
 * asks, however many they are, and not at all while nobody does.
 */
export class StatusFeed {
  readonly #read: () => Promise<StatusView>;
  readonly #options: Required<FeedOptions>;
  readonly #watchers = new Set<(sighting: Sighting) => void>();
  #last: Sighting = { view: undefined, fault: undefined };
  #lookedAt = Number.NEGATIVE_INFINITY;
  #looking: Promise<Sighting> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(reader: { read(): Promise<StatusView> }, options: FeedOptions) {
    this.#read = () => reader.read();
    this.#options = { limitMs: 5000, ...options };
  }

  /** What there is, at most a second old. Never throws: a fault is part of the answer. */
  async view(): Promise<Sighting> {
    if (this.#closed || performance.now() - this.#lookedAt < FRESH_MS) return this.#last;
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return await this.#looking;
  }

  /** Calls back with what there is, soon and then about once a second. @returns what ends it. */
  watch(show: (sighting: Sighting) => void): () => void {
    this.#watchers.add(show);
    if (this.#timer === undefined) this.#poll(0);
    return () => {
      this.#watchers.delete(show);
    };
  }

  /** How many watch. */
  get watched(): number {
    return this.#watchers.size;
  }

  /** Nothing is read after this. */
  close(): void {
    this.#closed = true;
    this.#watchers.clear();
    clearTimeout(this.#timer);
  }

  #poll(afterMs: number): void {
    this.#timer = setTimeout(async () => {
      const sighting = await this.view();
      this.#timer = undefined;
      if (this.#closed || this.#watchers.size === 0) return;
      for (const show of [...this.#watchers]) show(sighting);
      this.#poll(POLL_MS);
    }, afterMs);
  }

  async #look(): Promise<Sighting> {
    try {
      this.#last = { view: await within(this.#options.limitMs, this.#read()), fault: undefined };
    } catch (thrown) {
      this.#last = { view: this.#last.view, fault: { error: this.#explain(thrown), since: this.#since() } };
    }
    this.#lookedAt = performance.now();
    return this.#last;
  }

  #since(): Date {
    return this.#last.fault?.since ?? new Date();
  }

  /** What nobody foresaw goes to the log: it may hold anything, and a page is read by many. */
  #explain(thrown: unknown): KekError {
    const known = explainMongo(thrown, this.#options.uri);
    if (known !== undefined) return known;
    if (this.#last.fault === undefined) this.#options.log.warn(`the status cannot be read: ${String(thrown)}`);
    return new KekError("unexpected", "the status cannot be read", "this is a defect: see the log of this process");
  }
}
