import type { FleetTimes } from "../config/config.ts";
import { leaseMsOf, type Problem } from "../fleet/readiness.ts";
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

/** Processes whose heart beats and that cannot do their work: the key is there and its token is away, or the state is not followed. */
export function idleProblems(roster: Member[], state: KekState, now: Date, times: FleetTimes): Problem[] {
  return roster.flatMap((member) => {
    const leaseMs = leaseMsOf(member, times);
    // Silence says it all.
    if (member.age_ms > leaseMs) return [];
    const add = (code: "key_trouble" | "behind", what: string, hint: string): Problem => {
      return { code, message: `${memberName(member)} ${what}`, hint, process: member._id };
    };
    const { key_trouble: trouble } = member;
    return [
      ...(trouble == null
        ? []
        : [
            add("key_trouble", `can neither encrypt nor decrypt: ${trouble}`, "see to the token; it goes on by itself"),
          ]),
      ...(isBehind(member, state, now, leaseMs)
        ? [add("behind", "does not follow the state, and fences itself", "look at its log, and restart it")]
        : []),
    ];
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

// ---------------------------------------------------------------------------------------------------------------------

/** In the steady state everybody has acknowledged the last change, once a lease has passed. Of an open rotation it is awaited. */
function isBehind({ acked }: Member, { versions, rotation }: KekState, now: Date, leaseMs: number): boolean {
  const stance = stanceOf(versions, rotation);
  if (acked === null || stance === undefined || stance.phase !== 0) return false;
  const changed = Math.max(
    ...[rotation?.ended_at, ...Object.values(rotation?.phase_times ?? {})].map((at) => at?.getTime() ?? 0),
  );
  if (now.getTime() - changed <= leaseMs) return false;
  return acked.rotation !== stance.rotation || acked.epoch !== stance.epoch || acked.phase !== 0;
}
