import type { FleetTimes, ProviderName } from "../config/config.ts";
import { seconds } from "../util/duration.ts";
import type { AnnouncedTimes } from "./documents.ts";
import { evictionMsOf, leaseMsOf } from "./fleet_times.ts";
import { type Member, memberName } from "./member.ts";
import type { Problem, ProblemCode } from "./problem.ts";

/** Is the fleet ready for a version? Pure rules over the roster: each problem names its process and the next step. */

export interface ReadinessQuestion {
  provider: ProviderName;
  /** The version that processes must hold to go on as they are. */
  active: number | undefined;
  /** The version that they must hold as well, and declare. */
  target: number | undefined;
  /** In a reverse rotation, explicitly asked for, what a process declares is not held against it. */
  declaredMatters: boolean;
  /** What the operator rotates to, where that is not the target. */
  rotatesTo?: number;
  /** This command's own times. */
  times: FleetTimes;
}

/** Protocol: "The life of one rotation". Model: left out. */
export function fleetProblems(roster: Member[], question: ReadinessQuestion): Problem[] {
  return [...roster.flatMap((member) => memberProblems(member, question)), ...timeProblems(roster, question.times)];
}

/** Protocol: "The life of one rotation". Model: left out. */
export function memberProblems(member: Member, question: ReadinessQuestion): Problem[] {
  const problems: Problem[] = [];
  const name = memberName(member);
  const add = (code: ProblemCode, message: string, hint: string) =>
    problems.push({ code, message: `${name} ${message}`, hint, process: member._id });
  const leaseMs = leaseMsOf(member, question.times);

  if (member.provider !== question.provider) {
    add(
      "provider",
      `runs the provider "${member.provider}", and this install is locked to "${question.provider}"`,
      `set CERTAUTOPILOT_ENCRYPTION_PROVIDER=${question.provider} there and restart it`,
    );
  }
  if (member.age_ms > leaseMs) {
    add(
      "silent",
      `is silent: its last heartbeat was ${seconds(member.age_ms)} ago`,
      `start it again; if it is gone for good, evict it: certautopilot kek rotate --to-version=${question.rotatesTo ?? question.target ?? "N"} --evict=${member._id}`,
    );
    return problems;
  }
  // Clocks of two primaries differ a little. A heartbeat that lies further ahead was written before a clock was set back.
  if ((member.ahead_ms ?? 0) > evictionMsOf(member, question.times)) {
    add(
      "silent",
      `may be silent: its last heartbeat lies ${seconds(member.ahead_ms ?? 0)} in the future, because MongoDB's clock was set back`,
      `run this again: a living process sends another within seconds; if it is gone for good, evict it: certautopilot kek rotate --to-version=${question.rotatesTo ?? question.target ?? "N"} --evict=${member._id}`,
    );
    return problems;
  }
  if (member.acked === null) {
    add("joining", "has not finished joining", "wait a moment; its log says what it lacks");
  }
  for (const version of new Set([question.active, question.target])) {
    if (version !== undefined) keyProblem(member, version, version === question.target, add);
  }
  if (question.target === undefined) {
    for (const { version, reason } of member.problems ?? []) {
      if (version !== question.active && reason !== "missing") keyProblem(member, version, true, add);
    }
  }
  if (question.target !== undefined && question.declaredMatters && member.current_version !== question.target) {
    const declares =
      member.current_version === null
        ? "declares no current version"
        : `declares current version ${member.current_version}`;
    add(
      "declares_other",
      `${declares}, not ${question.target}`,
      `set CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${question.target} in its secrets file, or restart it with that variable`,
    );
  }
  return problems;
}

// ---------------------------------------------------------------------------------------------------------------------

function keyProblem(
  member: Member,
  version: number,
  isTarget: boolean,
  add: (code: ProblemCode, message: string, hint: string) => void,
): void {
  const reported = member.problems?.find((problem) => problem.version === version)?.reason;
  if (reported === "wrong_key") {
    add(
      "wrong_key",
      `holds other bytes under KEK version ${version}: its key does not open the canary`,
      `give it the key that the rest of the fleet has for version ${version}, and restart it`,
    );
  } else if (!member.loaded.includes(version) && !(isTarget && member.available?.includes(version))) {
    add(
      "lacks_version",
      `does not hold KEK version ${version}${reported === "unreadable" ? ": the key it was given cannot be used" : ""}`,
      `give it the key that the fleet has, never one that is generated again (env: copy the line CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version} from a host that has it, or from your secret store, into its secrets file or environment; pkcs11: the token that has it)`,
    );
  }
}

/** Every process of a fleet must hold the same times, and whoever coordinates it too. */
function timeProblems(roster: Member[], own: FleetTimes): Problem[] {
  const problems: Problem[] = [];
  const announced = roster.filter((member) => member.fleet !== undefined);
  const first = announced[0];
  for (const member of announced) {
    if (first !== undefined && JSON.stringify(member.fleet) !== JSON.stringify(first.fleet)) {
      problems.push({
        code: "fleet_times",
        message: `${memberName(member)} has other fleet times than ${memberName(first)}`,
        hint: "set the same CERTAUTOPILOT_FLEET_… for every process, and restart those that differ",
        process: member._id,
      });
    }
  }
  if (first?.fleet !== undefined && !sameTimes(first.fleet, own)) {
    problems.push({
      code: "fleet_times",
      message: `this command has other fleet times than ${memberName(first)}`,
      hint: "give this command the CERTAUTOPILOT_FLEET_… settings that the fleet has",
    });
  }
  return problems;
}

function sameTimes(announced: AnnouncedTimes, own: FleetTimes): boolean {
  return (
    announced.beat_ms === own.beatMs &&
    announced.lease_ms === own.leaseMs &&
    announced.eviction_ms === own.evictionMs &&
    announced.drain_ms === own.drainMs
  );
}
