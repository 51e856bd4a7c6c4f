import type { PacePoint } from "../store/documents.ts";

/** How a rewrap goes, from points that MongoDB's clock has stamped: pure. */

const MOST_POINTS = 60;
/** A rate is told over at least as long: single batches come in bursts. */
const LATELY_MS = 5000;
/** The coordinator adds a point a second. Without one for as long, nothing moves. */
const STALE_MS = 15_000;

/** About evenly spread over the whole time, and no more than sixty, however long it takes. The newest always stays. */
export function thinned(points: PacePoint[]): PacePoint[] {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined || points.length < 3) return points;
  const gap = (last.at.getTime() - first.at.getTime()) / MOST_POINTS;
  const kept = [first];
  for (const point of points.slice(1, -1)) {
    if (point.at.getTime() - (kept.at(-1)?.at.getTime() ?? 0) >= gap) kept.push(point);
  }
  return [...kept, last];
}

/** Records a second, lately; null when nothing moves, or nothing can be told yet. */
export function recentRate(points: PacePoint[], now: Date): number | null {
  const last = points.at(-1);
  if (last === undefined || now.getTime() - last.at.getTime() > STALE_MS) return null;
  const since = points.findLast((point) => last.at.getTime() - point.at.getTime() >= LATELY_MS) ?? points[0];
  return since === undefined ? null : rateBetween(since, last);
}

/** The rate that led to each point but the first. */
export function rates(points: PacePoint[]): { at: Date; done: number; rate: number }[] {
  return points.slice(1).map((point, index) => ({ ...point, rate: rateBetween(points[index] ?? point, point) ?? 0 }));
}

// ---------------------------------------------------------------------------------------------------------------------

/** Another coordinator counts anew what is left, so `done` may go back a little: that is no negative rate. */
function rateBetween(from: PacePoint, to: PacePoint): number | null {
  const ms = to.at.getTime() - from.at.getTime();
  return ms <= 0 ? null : (Math.max(0, to.done - from.done) / ms) * 1000;
}
