/** A moment by both clocks of this machine. */
export interface Moment {
  monotonic: number;
  wall: number;
}

export function now(): Moment {
  return { monotonic: performance.now(), wall: Date.now() };
}

/**
 * Milliseconds since then, by the clock that says more: the monotonic one stands still while a machine is suspended, the
 * wall clock may be set back. Who asks whether a lease is over errs on the side of over.
 */
export function msSince(then: Moment): number {
  return Math.max(performance.now() - then.monotonic, Date.now() - then.wall);
}
