import { AsyncLocalStorage } from "node:async_hooks";
import { KekError } from "../errors/errors.ts";
import { withTimeLimit } from "../util/time_limit.ts";

/** What is in hand when a process closes: it may end, and what it calls for itself may begin; nothing else may. */
export class Operations {
  readonly #within = new AsyncLocalStorage<true>();
  #inHand = 0;
  #closed = false;
  #idle: (() => void)[] = [];

  /** @throws KekError `closed` for an operation that begins after `end` was called. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    // A write() that began before continues encrypting within itself.
    if (this.#closed && this.#within.getStore() === undefined) throw closed();
    this.#inHand += 1;
    try {
      return await work();
    } finally {
      this.#inHand -= 1;
      if (this.#inHand === 0) for (const wake of this.#idle.splice(0)) wake();
    }
  }

  /** The same, of work that calls operations for itself. */
  async runAround<T>(work: () => Promise<T>): Promise<T> {
    return await this.run(() => this.#within.run(true, work));
  }

  /** Refuses what is new, and returns when nothing is in hand, or after so many milliseconds. */
  async end(limitMs: number): Promise<void> {
    this.#closed = true;
    if (this.#inHand === 0) return;
    const idle = new Promise<void>((resolve) => this.#idle.push(resolve));
    await withTimeLimit(limitMs, idle, () => undefined);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function closed(): KekError {
  return new KekError(
    "closed",
    "this process has left the fleet, or is leaving it",
    "open it again with openFieldEncryption",
  );
}
