const EVERY_MS = 500;
const KEPT = 60;

/**
 * How late a timer is: what else waits for this thread waits as long. Measured here, since `monitorEventLoopDelay` does not
 * see a blocked loop under Deno.
 */
export class EventLoopLag {
  readonly #latest: number[] = [];
  readonly #timer: ReturnType<typeof setInterval>;
  #due = performance.now() + EVERY_MS;

  constructor() {
    this.#timer = setInterval(() => this.#tick(), EVERY_MS);
  }

  /** The longest of the last half minute, in milliseconds. */
  get worstMs(): number {
    return Math.max(0, ...this.#latest);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const now = performance.now();
    this.#latest.push(Math.max(0, now - this.#due));
    if (this.#latest.length > KEPT) this.#latest.shift();
    this.#due = now + EVERY_MS;
  }
}
