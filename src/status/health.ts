import type { Problem } from "../fleet/readiness.ts";
import { stanceOf } from "../fleet/stance.ts";
import type { RotationDoc } from "../store/documents.ts";
import { type Member, memberName } from "../store/heartbeats.ts";
import type { KekState } from "../store/state.ts";
import { isOpen } from "../store/state_rules.ts";
import { waysOn } from "./ways_on.ts";

/** What is not as it should be, from the state and the roster alone: pure. */

/** A process whose declaration or write version is not what the state says. */
export function driftProblems(roster: Member[], state: KekState): Problem[] {
  const stance = stanceOf(state.versions, state.rotation);
  if (stance === undefined) return [];
  const { rotation } = state;
  // Strays are brought back while everybody declares and writes what they did before.
  const open = rotation !== undefined && isOpen(rotation) && rotation.mends !== true;
  const expected = open ? [rotation.from, rotation.to] : [stance.write];
  return roster.flatMap((member) => {
    const found: Problem[] = [];
    if (member.current_version !== null && !expected.includes(member.current_version)) {
      found.push({
        code: "declares_other",
        message: `${memberName(member)} declares current version ${member.current_version}, and the install is at ${stance.write}`,
        hint: `rotate to ${member.current_version}, or have it declare ${stance.write} again: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${stance.write}`,
        process: member._id,
      });
    }
    if (member.write_version !== null && !expected.includes(member.write_version)) {
      found.push({
        code: "write_version",
        message: `${memberName(member)} writes under version ${member.write_version}, and the install is at ${stance.write}`,
        hint: "it has not seen the state for a while and fences itself; look at its log",
        process: member._id,
      });
    }
    return found;
  });
}

/** Whether a coordinator is at work on a rotation. */
export function isLed({ state, lease }: Pick<RotationDoc, "state" | "lease">, now: Date): boolean {
  return state === "running" && lease !== null && lease.owner !== null && lease.expires_at > now;
}

/** An open rotation that nobody leads stays as it is until an operator says how to go on. */
export function unledRotation(rotation: RotationDoc | undefined, now: Date): Problem[] {
  if (rotation === undefined || !isOpen(rotation) || isLed(rotation, now)) return [];
  const { from, to, phase, state } = rotation;
  const message = `the rotation ${from} → ${to} is unfinished (phase ${phase}, ${state}) and nobody leads it`;
  return [{ code: "rotation", message, hint: waysOn(rotation) }];
}
