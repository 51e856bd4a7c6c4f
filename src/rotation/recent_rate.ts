const WINDOW_MS = 5000;

/** How fast it goes: records a second over the last five seconds. */
export class RecentRate {
  #recent: { at: number; count: number }[] = [];

  add(count: number): void {
    this.#recent.push({ at: performance.now(), count });
  }

  /** Zero while nothing can be told. */
  perSecond(): number {
    const now = performance.now();
    this.#recent = this.#recent.filter((entry) => now - entry.at < WINDOW_MS);
    const since = this.#recent[0]?.at ?? now;
    if (now === since) return 0;
    return (this.#recent.reduce((total, entry) => total + entry.count, 0) / (now - since)) * 1000;
  }
}
