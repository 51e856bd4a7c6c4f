/** How many operations a session is given at a time, by how long they took of late. Pure: time is handed in. */
export class ShareSize {
  /** How long one operation takes, about. */
  #operationMs = SHARE_MS;

  /** @param waiting operations. @param width how many sessions they are for, and whether that is being found out. */
  of(waiting: number, { now, searching }: { now: number; searching: boolean }): number {
    const even = Math.ceil(waiting / now);
    const shareMs = searching ? SEARCHING_SHARE_MS : SHARE_MS;
    return Math.max(1, Math.min(even, MOST_AT_ONCE, Math.floor(shareMs / this.#operationMs)));
  }

  done(operations: number, tookMs: number): void {
    // Slowly, so that one hiccup does not make shares of one.
    this.#operationMs += (tookMs / operations - this.#operationMs) / 2;
  }

  /** There was no answer: whoever takes such work next is not to lose as much of it. */
  failed(operations: number, tookMs: number): void {
    this.#operationMs = Math.max(this.#operationMs, tookMs / operations);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** A share is about so much work, so that the other sessions find some too. Less, while how many are of use is found out. */
const SHARE_MS = 150;
const SEARCHING_SHARE_MS = 30;
const MOST_AT_ONCE = 64;
