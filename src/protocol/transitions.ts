import type { Phase, RotationDoc, VersionState } from "./documents.ts";

/**
 * Which changes of a rotation are legal. `store/rotation_steps.ts` applies each as a compare-and-set: the conditions below are
 * part of the update's filter, together with the lease token and the epoch.
 */

/** Version states with key material: a rotation may lead to these. */
export const LIVING = ["staged", "active", "retired"] as const satisfies VersionState[];

/**
 * The phase in which a rotation starts. A repair starts in phase 2: no member changes the version that it writes, so phase 2
 * follows directly on the steady state.
 * Protocol: "The life of one rotation". Model: acquire.
 */
export function firstPhase(repairs: boolean): Phase {
  return repairs ? 2 : 1;
}

/**
 * In which states the two versions of a new rotation must be.
 * @param repairs it moves stale envelopes from a retired version to the active one.
 * @param replaces it is the reverse of an unfinished rotation, whose target may be active or not yet.
 * Protocol: "The life of one rotation". Model: acquire.
 */
export function statesToStart({ repairs, replaces }: { repairs: boolean; replaces: boolean }): {
  from: readonly VersionState[];
  to: readonly VersionState[];
} {
  if (repairs) return { from: ["retired"], to: ["active"] };
  return { from: replaces ? LIVING : ["active"], to: LIVING };
}

/** The phase that an unfinished rotation must be in to be reversed: records are at both versions, and both are held. */
export const REVERSIBLE_PHASE: Phase = 2;

/**
 * The phase that must be current before the next one begins: none is skipped.
 * Protocol: "The life of one rotation". Model: advance_phase.
 */
export function phaseBefore(next: 2 | 3): Phase {
  return next === 2 ? 1 : 2;
}

/** The phase from which a rotation completes. */
export const LAST_PHASE: Phase = 3;

/**
 * Whether completing a rotation makes its target the active version. A repair leaves every version in its state.
 * Protocol: "The life of one rotation". Model: settle.
 */
export function switchesActiveVersion({ repairs }: Pick<RotationDoc, "repairs">): boolean {
  return repairs !== true;
}

/** A rotation can be cancelled before this phase: from then on members release the version that is left. */
export const NOT_CANCELLABLE_FROM: Phase = 3;

/**
 * Whether a cancel ends the rotation. In phase 1 no record has changed, and a repair leaves members as they are; in phase 2 the
 * rotation stays open, because records are at both versions.
 * Protocol: "The life of one rotation". Model: can_close.
 */
export function cancelEnds({ phase, repairs }: Pick<RotationDoc, "phase" | "repairs">): boolean {
  return phase === 1 || repairs === true;
}
