/**
 * How many sessions to keep busy: found out, not configured. A network HSM does more the more sessions ask it; a token that
 * computes on this machine does its best with one or two, and the rest only stand in each other's way. So the number is
 * doubled while that makes the token do clearly more, and taken back when it does not. Pure: time is handed in.
 */
export class Width {
  #limit: number;
  #now = 1;
  #began: number | undefined;
  #operations = 0;
  #events = 0;
  #crowded = 0;
  /** The width and rate before the last doubling, while it is on trial. */
  #before: { width: number; rate: number } | undefined;
  #holdMs = FIRST_HOLD_MS;
  #heldUntil = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get now(): number {
    return Math.min(this.#now, this.#limit);
  }

  atMost(limit: number): void {
    this.#limit = limit;
  }

  /**
   * A session has done operations.
   * @param waiting whether more were waiting for one.
   * @param settled whether every session that is to be busy is open: before that nothing is learnt.
   * @param at milliseconds of a monotonic clock.
   */
  done(operations: number, waiting: boolean, settled: boolean, at: number): void {
    if (!settled || this.#began === undefined) {
      this.#restart(at);
      return;
    }
    this.#operations += operations;
    this.#events += 1;
    if (waiting) this.#crowded += 1;
    const elapsed = at - this.#began;
    if (elapsed < WINDOW_MS || this.#events < 3 * this.now) return;
    // Not enough to do for the sessions there are: nothing to learn, and no more needed.
    if (this.#crowded * 2 > this.#events) this.#learn(this.#operations / elapsed, at);
    this.#restart(at);
  }

  #learn(rate: number, at: number): void {
    const before = this.#before;
    if (before !== undefined) {
      this.#before = undefined;
      if (rate < before.rate * CLEARLY_MORE) {
        this.#now = before.width;
        this.#heldUntil = at + this.#holdMs;
        this.#holdMs = Math.min(LONGEST_HOLD_MS, this.#holdMs * 2);
        return;
      }
      this.#holdMs = FIRST_HOLD_MS;
    }
    if (at < this.#heldUntil || this.now >= this.#limit) return;
    this.#before = { width: this.now, rate };
    this.#now = Math.min(this.#limit, this.now * 2);
  }

  #restart(at: number): void {
    this.#began = at;
    this.#operations = 0;
    this.#events = 0;
    this.#crowded = 0;
  }
}

const WINDOW_MS = 80;
const CLEARLY_MORE = 1.15;
const FIRST_HOLD_MS = 5000;
const LONGEST_HOLD_MS = 60_000;
