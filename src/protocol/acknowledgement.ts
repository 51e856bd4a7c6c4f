import type { Acked, Phase } from "./documents.ts";
import type { Member } from "./member.ts";

/** Acknowledgement: a member confirms that it has applied one rotation, epoch and phase. */

/**
 * Whether an acknowledgement is for this rotation, epoch and phase, and not for an earlier one.
 * Protocol: "The life of one member sync". Model: acknowledge.
 */
export function acknowledges(acked: Acked | null, rotation: number, epoch: number, phase: Phase): boolean {
  return acked !== null && acked.rotation === rotation && acked.epoch === epoch && acked.phase === phase;
}

/**
 * Members that have not acknowledged this epoch: pure.
 * Protocol: "The life of one rotation". Model: await_acknowledgements.
 */
export function awaited(roster: Member[], rotation: number, epoch: number, phase: Phase): Member[] {
  return roster.filter(({ acked }) => !acknowledges(acked, rotation, epoch, phase));
}
