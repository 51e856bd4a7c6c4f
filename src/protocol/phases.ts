import type { Phase, RotationState } from "./documents.ts";

/** The phases of a rotation, their order, and whether a rotation is open. */

/**
 * Whether processes must follow a rotation: one that runs, or one that was cancelled with records at both versions. One that
 * only repaired stale envelopes is over when it is cancelled: nobody has written under the version they are at.
 * Protocol: "The phases". Model: running.
 */
export function isOpen({
  state,
  phase,
  repairs,
}: {
  state: RotationState;
  phase: Phase;
  repairs?: true | undefined;
}): boolean {
  return state === "running" || (state === "cancelled" && phase === 2 && repairs !== true);
}

export const PHASE_NAMES: Record<Phase, string> = { 1: "announce", 2: "re-wrap", 3: "settle" };
