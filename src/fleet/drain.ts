import type { Keyring } from "./keyring.ts";

/**
 * A version that a process gives up stays readable for a while: copies read a moment ago, or from a lagging secondary,
 * still open until then.
 */
export class Drain {
  readonly #drainMs: number;
  readonly #wake: () => void;
  /** Version → monotonic time from which it may be dropped. */
  readonly #until = new Map<number, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param wake called when a drain has ended and `settle` is to be called again. */
  constructor(drainMs: number, wake: () => void) {
    this.#drainMs = drainMs;
    this.#wake = wake;
  }

  /**
   * Drops what is not to be held and has drained. A process that does not serve yet has nothing to drain.
   * @returns whether nothing is left to drop: only then may the new key policy be acknowledged.
   */
  async settle(keyring: Keyring, hold: number[], serving: boolean): Promise<boolean> {
    const now = performance.now();
    for (const version of [...this.#until.keys()]) if (hold.includes(version)) this.#until.delete(version);
    for (const version of keyring.loaded.filter((held) => !hold.includes(held))) {
      // A drain that was begun before an eviction is void: a process that joins again reads nothing yet.
      const until = serving ? (this.#until.get(version) ?? now + this.#drainMs) : now;
      this.#until.set(version, until);
      if (until > now) continue;
      await keyring.drop(version);
      this.#until.delete(version);
    }
    this.clear();
    if (this.#until.size === 0) return true;
    this.#timer = setTimeout(this.#wake, Math.max(1, Math.min(...this.#until.values()) - performance.now()));
    return false;
  }

  clear(): void {
    clearTimeout(this.#timer);
  }
}
