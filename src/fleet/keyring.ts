import { KekError } from "../errors/errors.ts";
import type { Awaitable, Provider } from "../providers/provider.ts";
import { withTimeLimit } from "../util/time_limit.ts";

const CLOSE_LIMIT_MS = 2000;

/** The versions that this process holds and has verified, the one it writes under, and the reads that are in hand. */
export class Keyring {
  readonly #provider: Provider;
  /** Version → the canary that its key has opened. */
  readonly #verified = new Map<number, string>();
  readonly #inHand = new Map<number, number>();
  #idle: (() => void)[] = [];
  #write: number | undefined;

  constructor(provider: Provider) {
    this.#provider = provider;
  }

  get provider(): Provider {
    return this.#provider;
  }

  get loaded(): number[] {
    return [...this.#verified.keys()].sort((a, b) => a - b);
  }

  get writeVersion(): number | undefined {
    return this.#write;
  }

  has(version: number): boolean {
    return this.#verified.has(version);
  }

  /** The canary that a version's key was verified by. */
  provedBy(version: number): string | undefined {
    return this.#verified.get(version);
  }

  /** Only for a version whose canary has just been opened. */
  add(version: number, canary: string): void {
    this.#verified.set(version, canary);
  }

  writeUnder(version: number | undefined): void {
    this.#write = version;
  }

  /** Runs one operation with a version's key; the key is not forgotten before it ends. */
  use<T>(version: number, work: (provider: Provider) => Awaitable<T>): Awaitable<T> {
    if (!this.#verified.has(version)) {
      throw new KekError(
        "version_not_loaded",
        `KEK version ${version} is not loaded in this process`,
        "run `certautopilot kek status`: it names the versions in use and what each process holds",
      );
    }
    const result = work(this.#provider);
    // What answers at once has ended: nothing can be forgotten meanwhile.
    return result instanceof Promise ? this.#hold(version, result) : result;
  }

  /** Stops using a version at once, waits until no operation with it is in hand, then forgets its key. */
  async drop(version: number): Promise<void> {
    this.#verified.delete(version);
    while (this.#inHand.has(version)) await new Promise<void>((resolve) => this.#idle.push(resolve));
    await this.#provider.release(version);
  }

  async close(): Promise<void> {
    this.#write = undefined;
    // An operation that hangs in an HSM is not waited for: closing the provider ends it.
    const dropped = Promise.all(this.loaded.map((version) => this.drop(version)));
    await withTimeLimit(CLOSE_LIMIT_MS, dropped, () => undefined);
    await this.#provider.close();
    await dropped;
  }
  // -------------------------------------------------------------------------------------------------------------------

  async #hold<T>(version: number, result: Promise<T>): Promise<T> {
    this.#inHand.set(version, (this.#inHand.get(version) ?? 0) + 1);
    try {
      return await result;
    } finally {
      const left = (this.#inHand.get(version) ?? 1) - 1;
      if (left === 0) this.#inHand.delete(version);
      else this.#inHand.set(version, left);
      for (const wake of this.#idle.splice(0)) wake();
    }
  }
}
