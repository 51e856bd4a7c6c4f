import type { FleetTimes } from "../config/config.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { leaseMsOf } from "../protocol/fleet_times.ts";
import { keyPolicyOf } from "../protocol/key_policy.ts";
import { type Member, memberName } from "../protocol/member.ts";
import { nextStepsText } from "../protocol/next_steps.ts";
import { isOpen } from "../protocol/phases.ts";
import type { Problem } from "../protocol/problem.ts";
import type { KekState } from "../store/state.ts";

/** What is not as it should be, from the state and the roster alone: pure. */

/** A process whose declaration or write version is not what the state says. */
export function driftProblems(roster: Member[], state: KekState): Problem[] {
  const policy = keyPolicyOf(state.versions, state.rotation);
  if (policy === undefined) return [];
  const { rotation } = state;
  // Stale envelopes are repaired while everybody declares and writes what they did before.
  const open = rotation !== undefined && isOpen(rotation) && rotation.repairs !== true;
  const expected = open ? [rotation.from, rotation.to] : [policy.write];
  return roster.flatMap((member) => {
    const found: Problem[] = [];
    if (member.current_version !== null && !expected.includes(member.current_version)) {
      found.push({
        code: "declares_other",
        message: `${memberName(member)} declares current version ${member.current_version}, and the install is at ${policy.write}`,
        hint: `rotate to ${member.current_version}, or have it declare ${policy.write} again: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${policy.write}`,
        process: member._id,
      });
    }
    if (member.write_version !== null && !expected.includes(member.write_version)) {
      found.push({
        code: "write_version",
        message: `${memberName(member)} writes under version ${member.write_version}, and the install is at ${policy.write}`,
        hint: "it has not seen the state for a while and fences itself; look at its log",
        process: member._id,
      });
    }
    return found;
  });
}

/** Processes whose heartbeat is current and that cannot do their work: the key is there and its token is unavailable, or the state is not followed. */
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
            add(
              "key_trouble",
              `can neither encrypt nor decrypt: ${trouble}`,
              "see to the token; it continues automatically",
            ),
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
  return [{ code: "rotation", message, hint: nextStepsText(rotation) }];
}

// ---------------------------------------------------------------------------------------------------------------------

/** In the steady state everybody has acknowledged the last change, once a lease has passed. Of an open rotation it is awaited. */
function isBehind({ acked }: Member, { versions, rotation }: KekState, now: Date, leaseMs: number): boolean {
  const policy = keyPolicyOf(versions, rotation);
  if (acked === null || policy === undefined || policy.phase !== 0) return false;
  const changed = Math.max(
    ...[rotation?.ended_at, ...Object.values(rotation?.phase_times ?? {})].map((at) => at?.getTime() ?? 0),
  );
  if (now.getTime() - changed <= leaseMs) return false;
  return acked.rotation !== policy.rotation || acked.epoch !== policy.epoch || acked.phase !== 0;
}
