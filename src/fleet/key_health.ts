import { messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { Keyring } from "./keyring.ts";

/**
 * Whether the key that this process writes under can be used at this moment: keys in an HSM go away with it. Asked beside the
 * syncs, not within them, so that a slow token never delays a heartbeat.
 */
export class KeyHealth {
  readonly #keyring: Keyring;
  readonly #everyMs: number;
  readonly #log: Log;
  #problem: string | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(keyring: Keyring, everyMs: number, log: Log) {
    this.#keyring = keyring;
    this.#everyMs = everyMs;
    this.#log = log;
  }

  /** Why the key cannot be used, in words. */
  get problem(): string | undefined {
    return this.#problem;
  }

  start(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#look().finally(() => this.start());
    }, this.#everyMs);
  }

  /** A look that is under way ends with the keyring. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    const before = this.#problem;
    const version = this.#keyring.writeVersion;
    try {
      if (version !== undefined && this.#keyring.has(version))
        await this.#keyring.use(version, (provider) => provider.check(version));
      this.#problem = undefined;
      if (before !== undefined) this.#log.info(`KEK version ${version} can be used again`);
    } catch (thrown) {
      this.#problem = `KEK version ${version} cannot be used: ${messageOf(thrown)}`;
      if (before === undefined && !this.#stopped) this.#log.warn(this.#problem);
    }
  }
}
