/**
 * How many sessions to keep busy: found out, not configured. A network HSM does more the more sessions ask it; a token that
 * computes on this machine does its best with one or two, and the rest only stand in each other's way. So the number is
 * multiplied while that makes the token do clearly more, and now and then halved to see whether fewer do as well: threads
 * that have just started grow faster by themselves, which looks like gain. Pure: time is handed in.
 */
export class Width {
  #limit: number;
  #now = 1;
  #began: number | undefined;
  #operations = 0;
  #events = 0;
  #noSession = 0;
  /** Operations a millisecond at this width, of late and a while before that. */
  #usual = 0;
  #earlier = 0;
  /** The least that a piece of work took in a session: what it takes without waiting for the others. */
  #leastMs = Number.POSITIVE_INFINITY;
  #trial: Trial | undefined;
  #growNext = true;
  #holdMs = FIRST_HOLD_MS;
  #heldUntil = 0;
  /** How long an operation took a session when it was decided to hold. */
  #heldAtMs = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get now(): number {
    return Math.min(this.#now, this.#limit);
  }

  /** Whether it is still on its way up for the first time, and answers are wanted soon. */
  get searching(): boolean {
    return this.#growNext && this.now < this.#limit && this.#heldUntil === 0;
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
    if (waiting) this.#noSession += 1;
    const elapsed = at - this.#began;
    if (elapsed < WINDOW_MS || this.#events < EVENTS_A_SESSION * this.now) return;
    // Not enough to do for the sessions there are: nothing to learn, and no more needed.
    if (this.#noSession * 2 > this.#events) this.#learn(this.#operations / elapsed, elapsed, at);
    this.#restart(at);
  }

  /** There is nothing to do: what passes until there is again says nothing of the token. */
  idle(): void {
    this.#began = undefined;
  }

  // -------------------------------------------------------------------------------------------------------------------

  #learn(rate: number, elapsed: number, at: number): void {
    const trial = this.#trial;
    if (trial !== undefined) {
      const verdict = this.#now > trial.width ? grown(trial, this.#now, rate, at) : shrunk(trial, rate, elapsed, at);
      if (verdict === "open") return;
      this.#trial = undefined;
      if (verdict === "worse") {
        this.#growNext = this.#now < trial.width;
        this.#now = trial.width;
        this.#heldUntil = at + this.#holdMs;
        this.#heldAtMs = trial.width / trial.rate;
        this.#holdMs = Math.min(LONGEST_HOLD_MS, this.#holdMs * 2);
        return;
      }
      // After fewer sessions it is seen anew whether the rate is level; more of them were no gain of warmth.
      this.#earlier = this.#now > trial.width ? rate : 0;
      this.#usual = rate;
    }
    // Weighed by age: what was a few seconds ago counts for little.
    if (this.#usual === 0) this.#usual = rate;
    const fresh = 1 - Math.exp(-elapsed / MEMORY_MS);
    this.#earlier += (this.#usual - this.#earlier) * fresh;
    this.#usual += (rate - this.#usual) * fresh;
    const operationMs = this.now / rate;
    this.#leastMs = Math.min(this.#leastMs, operationMs);
    // The token's answers take far longer, or far shorter, than when it was decided to hold: the decision is void.
    const change = operationMs / this.#heldAtMs;
    if (at < this.#heldUntil && (change > ANOTHER_TOKEN || change < 1 / ANOTHER_TOKEN)) {
      this.#heldUntil = 0;
      this.#holdMs = FIRST_HOLD_MS;
      this.#growNext = true;
      this.#leastMs = operationMs;
      this.#usual = rate;
      this.#earlier = rate;
    }
    if (at >= this.#heldUntil) this.#try(at);
  }

  #try(at: number): void {
    // Where there is no way further, the other way.
    if (this.#growNext && this.now >= this.#limit) this.#growNext = false;
    else if (!this.#growNext && this.now === 1) this.#growNext = true;
    // While all grows faster by itself, fewer sessions would be praised for it; and so would more, at a token that is near.
    if ((!this.#growNext || this.#leastMs < NEAR_MS) && this.#usual > this.#earlier * LEVEL) return;
    const times = this.#leastMs < FAR_MS ? 2 : 4;
    const wanted = this.#growNext ? Math.min(this.#limit, this.now * times) : Math.ceil(this.now / 2);
    if (wanted === this.now) return;
    this.#trial = { width: this.now, rate: this.#usual, since: at, operations: 0, ms: 0 };
    this.#now = wanted;
  }

  #restart(at: number): void {
    this.#began = at;
    this.#operations = 0;
    this.#events = 0;
    this.#noSession = 0;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** What was before the change that is on trial, and what was done since. */
interface Trial {
  readonly width: number;
  readonly rate: number;
  readonly since: number;
  operations: number;
  ms: number;
}

type Verdict = "better" | "worse" | "open";

/** New threads are slow at first, so more sessions get some time to show what they are good for. */
function grown(trial: Trial, width: number, rate: number, at: number): Verdict {
  const doublings = Math.log2(width / trial.width);
  if (rate >= trial.rate * CLEARLY_MORE ** doublings) return "better";
  const trialMs = trial.width / trial.rate < NEAR_MS ? NEAR_GROWTH_TRIAL_MS : GROWTH_TRIAL_MS;
  if (at - trial.since <= trialMs) return "open";
  return rate >= trial.rate * MORE ** doublings ? "better" : "worse";
}

/** Fewer sessions must do as much over a while; that they do not is soon seen. */
function shrunk(trial: Trial, rate: number, elapsed: number, at: number): Verdict {
  trial.operations += rate * elapsed;
  trial.ms += elapsed;
  if (rate < trial.rate * CLEARLY_LESS) return "worse";
  if (at - trial.since <= SHRINK_TRIAL_MS) return "open";
  return trial.operations / trial.ms >= trial.rate ? "better" : "worse";
}

const WINDOW_MS = 80;
const EVENTS_A_SESSION = 3;
const MEMORY_MS = 1000;
/** Twice the sessions must do so much more: at once, or at the end of their trial. */
const CLEARLY_MORE = 1.4;
const MORE = 1.15;
const GROWTH_TRIAL_MS = 2000;
/** At a token that is near, a thread is soon warm. */
const NEAR_GROWTH_TRIAL_MS = 1000;
const CLEARLY_LESS = 0.8;
const SHRINK_TRIAL_MS = 1000;
/** An unwrap is one call that needs the key, a rewrap three: what is done sooner hardly travelled, what takes longer did little else. */
const NEAR_MS = 0.5;
const FAR_MS = 2;
const LEVEL = 1.05;
/** An operation that takes so many times as long, or as short, is another token's. */
const ANOTHER_TOKEN = 4;
const FIRST_HOLD_MS = 5000;
const LONGEST_HOLD_MS = 60_000;
