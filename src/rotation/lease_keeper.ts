import { KekError, messageOf } from "../errors/errors.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { nextStepsText } from "../protocol/next_steps.ts";
import { watchSignals } from "../store/change_signals.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import { LeaseEnd, renewLease } from "../store/rotation_lease.ts";
import { type Held, readRotation } from "../store/rotations.ts";
import type { Store } from "../store/store.ts";
import { type Moment, msSince, now } from "../util/monotonic_clock.ts";

/**
 * The coordinator's right to act. It is renewed in the background; every step asks `check()` before its next write, and
 * every write is conditional on the token besides.
 */
export class LeaseKeeper {
  /** For the workers' threads too. */
  readonly until = new LeaseEnd();
  readonly #store: Store;
  readonly #leaseMs: number;
  #held: Held;
  /** When the last renewal that went through was sent; undefined before the first. */
  #renewedAt: Moment | undefined;
  #lost: KekError | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #stopWatching: (() => Promise<void>) | undefined;
  #renewing: Promise<void> | undefined;
  #looking: Promise<void> | undefined;

  constructor(store: Store, doc: RotationDoc, leaseMs: number) {
    this.#store = store;
    this.#leaseMs = leaseMs;
    this.#held = { rotation: doc._id, token: doc.lease?.token ?? 0, epoch: doc.epoch };
  }

  /**
   * Renews once before anything is done with the lease: when it began is known to the server alone, for the transaction that
   * took it may have committed long after that.
   */
  async start(): Promise<void> {
    await this.#renew();
    this.#timer = setInterval(() => this.#renewSoon(), this.#leaseMs / 3);
    this.#stopWatching = watchSignals(this.#store, () => this.#lookSoon());
  }

  get held(): Held {
    return this.#held;
  }

  /** After a change of phase that this coordinator made. */
  moved(doc: RotationDoc): void {
    this.#held = { ...this.#held, epoch: doc.epoch };
  }

  /** @throws KekError `cancelled` or `lease_lost` when this coordinator must stop. */
  check(): void {
    if (this.#lost === undefined && this.#ranOut) this.#lost = lost("its lease ran out");
    if (this.#lost !== undefined) throw this.#lost;
  }

  get ended(): boolean {
    return this.#lost !== undefined || this.#ranOut;
  }

  /** A conditional write was refused: finds out why, and throws it. */
  async refused(): Promise<never> {
    await this.#findOut();
    this.check();
    throw lost("the rotation was changed by somebody else");
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#stopWatching?.();
    await this.#renewing;
    await this.#looking;
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #ranOut(): boolean {
    return this.#renewedAt === undefined || msSince(this.#renewedAt) > this.#leaseMs;
  }

  #renewSoon(): void {
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = undefined;
    });
  }

  /** Our own changes are signalled too: a look reads, it never writes. */
  #lookSoon(): void {
    this.#looking ??= this.#findOut()
      .catch(() => undefined)
      .finally(() => {
        this.#looking = undefined;
      });
  }

  async #renew(): Promise<void> {
    const began = now();
    const { epoch } = this.#held;
    try {
      const until = await renewLease(this.#store, this.#held, this.#leaseMs);
      if (until !== undefined) {
        this.#renewedAt = began;
        this.until.set(until);
      } else if (epoch === this.#held.epoch) await this.#findOut();
    } catch (thrown) {
      // MongoDB may be unavailable for a moment: the lease runs out by itself if it stays unavailable.
      if (!isTransient(thrown)) this.#lost ??= thrown instanceof KekError ? thrown : lost(messageOf(thrown));
    }
  }

  async #findOut(): Promise<void> {
    const { rotation, token, epoch } = this.#held;
    const doc = await readRotation(this.#store, rotation);
    if (epoch !== this.#held.epoch || this.#lost !== undefined) return;
    if (doc?.lease?.token !== token) this.#lost = lost("another coordinator has taken over");
    else if (doc.state === "cancelled") {
      this.#lost = new KekError(
        "cancelled",
        `the rotation ${doc.from} → ${doc.to} was cancelled in phase ${doc.phase}`,
        whatNow(doc),
      );
    } else if (doc.state === "reverted") this.#lost = lost("it was reversed by another command");
    // Another epoch under our own token is a change of our own whose answer is still on its way.
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function lost(why: string): KekError {
  return new KekError(
    "lease_lost",
    `this coordinator stops: ${why}`,
    "`certautopilot kek status` shows who runs the rotation; the same command continues from where it stands",
  );
}

function whatNow(doc: RotationDoc): string {
  if (doc.phase === 1 && doc.reverses === undefined) return "nothing has changed; start it again when you are ready";
  // A reverse rotation that had not begun gives its place to the unfinished rotation that it came from.
  const open = doc.phase === 1 ? ({ from: doc.to, to: doc.from, phase: 2, state: "cancelled" } as const) : doc;
  return `both versions stay readable; ${nextStepsText(open)}`;
}
