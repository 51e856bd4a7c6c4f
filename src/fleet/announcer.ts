import type { Log } from "../errors/log.ts";
import type { KeyReport } from "./keystore.ts";
import type { Stance } from "./stance.ts";

/** A line in the log for what an operator would look for there: once each. */
export class Announcer {
  readonly #log: Log;
  readonly #complained = new Map<number, string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** @param before the stance until now; undefined at the first look. */
  tell(before: Stance | undefined, stance: Stance, { reasons }: KeyReport): void {
    if (before !== undefined && (before.phase !== stance.phase || before.write !== stance.write)) {
      const where = stance.phase === 0 ? "steady" : `phase ${stance.phase} of rotation ${stance.rotation}`;
      this.#log.info(`${where}: writing under KEK version ${stance.write}`);
    }
    for (const [version, reason] of reasons) {
      if (this.#complained.get(version) !== reason.message) this.#log.warn(`${reason.message}; ${reason.hint}`);
      this.#complained.set(version, reason.message);
    }
  }
}
