import type { Log } from "../errors/log.ts";
import type { KeyPolicy } from "../protocol/key_policy.ts";
import type { KeyReport } from "./key_loader.ts";

/** A line in the log for what an operator would look for there: once each. */
export class Announcer {
  readonly #log: Log;
  readonly #complained = new Map<number, string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** @param before the key policy until now; undefined at the first look. */
  tell(before: KeyPolicy | undefined, policy: KeyPolicy, { reasons }: KeyReport): void {
    if (before !== undefined && (before.phase !== policy.phase || before.write !== policy.write)) {
      const where = policy.phase === 0 ? "steady" : `phase ${policy.phase} of rotation ${policy.rotation}`;
      this.#log.info(`${where}: writing under KEK version ${policy.write}`);
    }
    for (const [version, reason] of reasons) {
      if (this.#complained.get(version) !== reason.message) this.#log.warn(`${reason.message}; ${reason.hint}`);
      this.#complained.set(version, reason.message);
    }
  }
}
