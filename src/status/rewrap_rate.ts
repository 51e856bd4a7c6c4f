import type { PacePoint } from "../protocol/documents.ts";

/** How a rewrap goes, from points that MongoDB's clock has stamped: pure. */

/** Spread over the whole time. */
const EVEN_POINTS = 48;
/** The newest stay as they are: how fast it goes just now is told from these, also after a day. */
const NEWEST_POINTS = 12;
/** A rate is told over at least as long: single batches come in bursts. */
const LATELY_MS = 5000;
/** A coordinator adds a point a second, and fewer where a batch takes longer. Without one for as long, nothing moves. */
const STALE_MS = 15_000;
const STALE_POINTS = 3;
/** Nobody led the rotation in between: what was done before says nothing about the rate since. */
const LULL_MS = 60_000;

/** No more than sixty or so, however long it takes. The first and the newest always stay. */
export function thinned(points: PacePoint[]): PacePoint[] {
  const kept = rising(points);
  const [first, last] = [kept[0], kept.at(-1)];
  if (first === undefined || last === undefined) return kept;
  const gap = (time(last) - time(first)) / EVEN_POINTS;
  const newest = kept.slice(1).slice(-NEWEST_POINTS);
  const even = [first];
  for (const point of kept.slice(1, kept.length - newest.length)) {
    if (time(point) - time(even.at(-1) ?? first) >= gap) even.push(point);
  }
  return [...even, ...newest];
}

/** Records a second, lately; null when nothing moves, or nothing can be told yet. */
export function recentRate(points: PacePoint[], now: Date): number | null {
  const all = rising(points);
  const lull = all.findLastIndex((point, index) => time(point) - time(all[index - 1] ?? point) > LULL_MS);
  const since = all.slice(Math.max(0, lull));
  const [before, last] = [since.at(-2), since.at(-1)];
  if (before === undefined || last === undefined) return null;
  const patience = Math.max(STALE_MS, STALE_POINTS * (time(last) - time(before)));
  if (now.getTime() - time(last) > patience) return null;
  const from = since.findLast((point) => time(last) - time(point) >= LATELY_MS) ?? since[0] ?? before;
  return rateBetween(from, last);
}

/** The rate that led to each point but the first. */
export function rates(points: PacePoint[]): { at: Date; done: number; rate: number }[] {
  const all = rising(points);
  return all.slice(1).map((point, index) => ({ ...point, rate: rateBetween(all[index] ?? point, point) }));
}

// ---------------------------------------------------------------------------------------------------------------------

/** MongoDB's clock may be set back, and another primary has another: what claims to be later than a newer point is left out. */
function rising(points: PacePoint[]): PacePoint[] {
  const kept: PacePoint[] = [];
  for (const point of points.toReversed()) {
    const later = kept.at(-1);
    if (later === undefined || time(point) < time(later)) kept.push(point);
  }
  return kept.reverse();
}

/** Another coordinator counts again what is left, so `done` may go back a little: that is no negative rate. */
function rateBetween(from: PacePoint, to: PacePoint): number {
  const ms = time(to) - time(from);
  return ms <= 0 ? 0 : (Math.max(0, to.done - from.done) / ms) * 1000;
}

function time(point: PacePoint): number {
  return point.at.getTime();
}
