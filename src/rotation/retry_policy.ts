import { setTimeout as sleep } from "node:timers/promises";
import { KekError } from "../errors/errors.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import type { Reporter } from "./context.ts";

/** How long a rotation waits for an HSM that does nothing at all. It can be resumed after that, as after any other end. */
const HSM_PATIENCE_MS = 120_000;
const TELL_MS = 15_000;
const BACKOFF_MS = 1000;

/** Waits for MongoDB and for the HSM while either is unavailable. For MongoDB the lease says how long; for an HSM this does. */
export class RetryPolicy {
  readonly #reporter: Reporter;
  #awaySince: number | undefined;
  #doneBefore = 0;
  #toldAt = Number.NEGATIVE_INFINITY;

  constructor(reporter: Reporter) {
    this.#reporter = reporter;
  }

  /**
   * @param done how many records have been moved: whoever moves any is not away.
   * @throws what was thrown, unless it is worth another try.
   */
  async waitBeforeRetry(thrown: unknown, done: number): Promise<void> {
    if (thrown instanceof KekError && thrown.code === "hsm_unavailable") {
      const now = performance.now();
      if (done > this.#doneBefore) this.#awaySince = undefined;
      this.#doneBefore = done;
      this.#awaySince ??= now;
      const left = HSM_PATIENCE_MS - (now - this.#awaySince);
      if (left <= 0) throw thrown;
      this.#tell(`${thrown.message}; trying again for ${Math.ceil(left / 1000)} s more`);
    } else if (isTransient(thrown)) this.#tell("MongoDB did not answer: trying again while the lease holds");
    else throw thrown;
    await sleep(BACKOFF_MS);
  }

  /** Not at each try. */
  #tell(message: string): void {
    const now = performance.now();
    if (now - this.#toldAt < TELL_MS) return;
    this.#toldAt = now;
    this.#reporter.note(message);
  }
}
