/**
 * How many sessions to keep busy: found out, not configured. A network HSM does more the more sessions ask it; a token that
 * computes on this machine does its best with one or two, and the rest only stand in each other's way. So the number is
 * doubled while that makes the token do clearly more, and now and then halved to see whether fewer do as well: threads that
 * have just started grow faster by themselves, which looks like gain. Pure: time is handed in.
 */
export class Width {
  #limit: number;
  #now = 1;
  #began: number | undefined;
  #operations = 0;
  #events = 0;
  #crowded = 0;
  /** The width and rate before the change that is on trial. */
  #before: { width: number; rate: number; since: number } | undefined;
  #growNext = true;
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
    if (elapsed < WINDOW_MS || this.#events < EVENTS_A_SESSION * this.now) return;
    // Not enough to do for the sessions there are: nothing to learn, and no more needed.
    if (this.#crowded * 2 > this.#events) this.#learn(this.#operations / elapsed, at);
    this.#restart(at);
  }

  #learn(rate: number, at: number): void {
    const before = this.#before;
    if (before !== undefined) {
      const grew = this.now > before.width;
      const over = at - before.since > TRIAL_MS;
      // New threads are slow at first, so more sessions get some time to show what they are good for.
      if (grew && !over && rate < before.rate * CLEARLY_MORE) return;
      this.#before = undefined;
      if (rate < before.rate * (grew ? MORE : AS_MUCH)) {
        this.#now = before.width;
        this.#growNext = !grew;
        this.#heldUntil = at + this.#holdMs;
        this.#holdMs = Math.min(LONGEST_HOLD_MS, this.#holdMs * 2);
        return;
      }
    }
    if (at < this.#heldUntil) return;
    // Where there is no way further, the other way.
    if (this.#growNext && this.now >= this.#limit) this.#growNext = false;
    else if (!this.#growNext && this.now === 1) this.#growNext = true;
    const wanted = this.#growNext ? Math.min(this.#limit, this.now * 2) : Math.ceil(this.now / 2);
    if (wanted === this.now) return;
    this.#before = { width: this.now, rate, since: at };
    this.#now = wanted;
  }

  #restart(at: number): void {
    this.#began = at;
    this.#operations = 0;
    this.#events = 0;
    this.#crowded = 0;
  }
}

const WINDOW_MS = 80;
const EVENTS_A_SESSION = 3;
/** Twice the sessions must do so much more: at once, or at the end of their trial. */
const CLEARLY_MORE = 1.4;
const MORE = 1.15;
const TRIAL_MS = 2000;
/** Half the sessions must do so much of it. */
const AS_MUCH = 0.92;
const FIRST_HOLD_MS = 5000;
const LONGEST_HOLD_MS = 60_000;
