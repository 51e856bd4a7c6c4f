import process from "node:process";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { cancel } from "../rotation/cancel.ts";
import type { Context } from "../rotation/context.ts";

/**
 * Ctrl-C once cancels, as `rotate --cancel` does: the coordinator sees it in the state and stops after the batch in hand.
 * Ctrl-C again leaves at once; the same command continues later.
 */
export class CancelOnInterrupt {
  readonly #context: Context;
  readonly #log: Log;
  #rotation: RotationDoc | undefined;
  #count = 0;
  #cancelling: Promise<void> | undefined;
  readonly #listener = (signal: NodeJS.Signals) => this.#interrupted(signal);

  constructor(context: Context, log: Log) {
    this.#context = context;
    this.#log = log;
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, this.#listener);
  }

  /** There is a rotation to cancel from now on, as long as this command leads it. */
  arm(rotation: RotationDoc): void {
    this.#rotation = rotation;
    if (this.#count > 0) this.#cancel(rotation);
  }

  /** A cancellation under way is finished first: it may be in the middle of lifting the fence. */
  async settled(): Promise<void> {
    await this.#cancelling;
  }

  disarm(): void {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, this.#listener);
  }

  /** @throws KekError `cancelled` when Ctrl-C came before anything began. */
  check(): void {
    if (this.#count > 0)
      throw new KekError("cancelled", "cancelled before anything was changed", "run it again when you are ready");
  }

  #interrupted(signal: NodeJS.Signals): void {
    this.#count += 1;
    if (this.#count > 1) {
      this.disarm();
      process.kill(process.pid, signal);
      return;
    }
    if (this.#rotation !== undefined) this.#cancel(this.#rotation);
    else this.#log.info("stopping (again to leave at once)");
  }

  #cancel(rotation: RotationDoc): void {
    this.#log.info("cancelling: the batch in hand is finished first (Ctrl-C again leaves at once)");
    this.#cancelling ??= cancel(this.#context, (message) => this.#log.info(message), rotation).then(
      () => undefined,
      (thrown) => this.#log.warn(messageOf(thrown)),
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Runs something that Ctrl-C stops after what is in hand; Ctrl-C again leaves at once. */
export async function untilInterrupted<T>(log: Log, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const listener = (signal: NodeJS.Signals) => {
    if (stop.signal.aborted) {
      disarm();
      process.kill(process.pid, signal);
      return;
    }
    log.info("stopping after the batch in hand (Ctrl-C again leaves at once)");
    stop.abort();
  };
  const disarm = () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, listener);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, listener);
  try {
    return await work(stop.signal);
  } finally {
    disarm();
  }
}
