/**
 * How many sessions are of use, and how many operations a session is given at a time, by how long they took of late. Pure.
 *
 * A remote token does more the more sessions ask it: it gets all that are allowed. A token whose calls are so short that they
 * compute on this machine gets one session for each processor: more of them compete for the processors and for its lock.
 */
export class OperationTiming {
  readonly #processors: number;
  #operationMs = BATCH_MS;
  /** The shortest call of late. It rises slowly, because a busy machine makes calls longer. */
  #callMs = Number.NaN;

  constructor(processors: number) {
    this.#processors = processors;
  }

  /** @param limit of sessions. One, until a call has been measured. */
  sessions(limit: number): number {
    if (Number.isNaN(this.#callMs)) return 1;
    return this.#callMs < LOCAL_CALL_MS ? Math.min(limit, this.#processors) : limit;
  }

  /** @param waiting operations, for so many sessions. */
  batch(waiting: number, sessions: number): number {
    return Math.max(1, Math.min(Math.ceil(waiting / sessions), Math.floor(BATCH_MS / this.#operationMs)));
  }

  /** @param callMs the shortest call among them; NaN where none was measured. */
  done(operations: number, tookMs: number, callMs: number): void {
    // Slowly, so that one slow operation does not make batches of one.
    this.#operationMs += (tookMs / operations - this.#operationMs) / 2;
    if (!Number.isNaN(callMs)) this.#callMs = callMs > this.#callMs * RISE ? this.#callMs * RISE : callMs;
  }

  /** There was no answer: the next session is not to lose as much. */
  failed(operations: number, tookMs: number): void {
    this.#operationMs = Math.max(this.#operationMs, tookMs / operations);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** The longest batch, about: what comes later waits for it. */
const BATCH_MS = 150;
/** SoftHSM takes some 0.03 ms a call; the network alone takes longer than this. */
const LOCAL_CALL_MS = 0.1;
const RISE = 1.2;
