import type { FleetTimes, ProviderName } from "../config/config.ts";
import type { KekError } from "../errors/errors.ts";
import type { VersionDoc } from "./documents.ts";
import type { Member } from "./member.ts";
import { reverseCommand } from "./next_steps.ts";
import type { Problem } from "./problem.ts";
import { fleetProblems } from "./readiness.ts";
import type { Plan } from "./rotation_plan.ts";
import { staleEnvelopeProblems } from "./stale_envelopes.ts";
import type { VersionCount } from "./version_count.ts";
import { wrapsLeft } from "./wrap_limit.ts";

/** Everything that must hold before a rotation starts, as one pure function over facts. */

export interface PreflightFacts {
  plan: Exclude<Plan, { kind: "refuse" }>;
  provider: ProviderName;
  versions: VersionDoc[];
  roster: Member[];
  versionCounts: VersionCount[];
  /** Of the fields, see `fieldProblems`. An open rotation waits for them to be put right, and needs no version of them here. */
  fieldProblems: Problem[];
  /** Why a key could not be loaded and verified by this command, by version. */
  ownKeys: Map<number, KekError>;
  /** CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION of this command. */
  declared: number | undefined;
  /** Whether `--from-version` was given: then what is declared elsewhere is not held against anybody. */
  explicitFrom: boolean;
  times: FleetTimes;
  backup: BackupCheck;
  /** Whether keys of this provider can be copied into a file. */
  copyable: boolean;
  /** How a copy is verified with this provider. */
  howToBackUp: string;
}

/**
 * Whether the target needs a backup that `kek verify --backup` has verified. `required`: always. `default`: when a rotation to a
 * new version starts, with keys in a file: whoever loses that key after phase 3 loses every secret. A token has its own backup,
 * records are already under a version that was active before, and an open rotation must be able to end. `skipped`: never.
 */
export type BackupCheck = "required" | "default" | "skipped";

/** Protocol: "The life of one rotation". Model: left out. */
export function preflight(facts: PreflightFacts): Problem[] {
  const { plan, versions, ownKeys } = facts;
  const problems: Problem[] = [];
  for (const error of ownKeys.values()) {
    problems.push({ code: "own_key", message: `this command: ${error.message}`, hint: error.hint });
  }
  if (plan.kind === "start" || plan.kind === "repair") problems.push(...facts.fieldProblems);
  // An open rotation has passed all this before, and its way on must not depend on a process that has died since.
  if (plan.kind === "repair") {
    const { provider, times } = facts;
    // The stale envelopes' version is the one that processes must load besides their own; what they declare stays right.
    const asked = { active: plan.to, target: plan.from, declaredMatters: false, rotatesTo: plan.to };
    problems.push(...fleetProblems(facts.roster, { provider, times, ...asked }));
  }
  if (plan.kind === "start") {
    problems.push(
      ...fleetProblems(facts.roster, {
        provider: facts.provider,
        active: plan.from,
        target: plan.to,
        declaredMatters: !plan.isReverse,
        times: facts.times,
      }),
    );
    if (plan.isReverse && !facts.explicitFrom) {
      problems.push({
        code: "target",
        message: `KEK version ${plan.to} is retired: going back to it must be meant`,
        hint: `add --from-version=${plan.from}`,
      });
    }
    problems.push(
      ...staleEnvelopeProblems({
        versionCounts: facts.versionCounts,
        versions,
        from: plan.from,
        to: plan.to,
        home: plan.from,
      }),
    );
    if (
      !facts.explicitFrom &&
      facts.declared !== undefined &&
      facts.declared !== plan.from &&
      facts.declared !== plan.to
    ) {
      problems.push({
        code: "shell_declares",
        message: `this shell declares current version ${facts.declared}, and the fleet is at ${plan.from}`,
        hint: `check that this is the right install, then add --from-version=${plan.from}`,
      });
    }
  }
  const target = versions.find((version) => version._id === plan.to);
  if (target !== undefined) problems.push(...wrapRoom(plan, target, facts.versionCounts));
  if (needsBackup(facts) && target?.backup_verified_at === undefined) {
    const skip = `. To rotate without a verified backup: --no-backup-check (if the key of version ${plan.to} is lost later, every secret is lost)`;
    problems.push({
      code: "backup",
      message: `no backup has been verified to hold KEK version ${plan.to}`,
      hint: `${facts.howToBackUp}${facts.backup === "default" ? skip : ""}`,
    });
  }
  return problems;
}

// ---------------------------------------------------------------------------------------------------------------------

function needsBackup({ backup, plan, copyable }: PreflightFacts): boolean {
  if (backup !== "default") return backup === "required";
  return copyable && plan.kind === "start" && !plan.isReverse;
}

/** Each record that is moved takes a wrap under the target. */
function wrapRoom(
  { kind, from, to }: PreflightFacts["plan"],
  target: VersionDoc,
  versionCounts: VersionCount[],
): Problem[] {
  const needed = versionCounts.filter((row) => row.version === String(from)).reduce((sum, row) => sum + row.count, 0);
  const left = wrapsLeft(target);
  if (needed <= left) return [];
  const rest = "rotate to a version that has room: certautopilot kek status tells the wraps of each";
  return [
    {
      code: "wraps",
      message: `KEK version ${to} has room for ${left} more wraps (of 2^32, NIST SP 800-38D 8.3), and ${needed} envelopes are to be moved to it`,
      hint: kind === "resume" ? `go back: ${reverseCommand({ from, to })}  then ${rest}` : rest,
    },
  ];
}
