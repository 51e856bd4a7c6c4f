import type { FleetTimes, ProviderName } from "../config/config.ts";
import type { KekError } from "../errors/errors.ts";
import { fleetProblems, type Problem } from "../fleet/readiness.ts";
import { type CensusRow, isVersion } from "../store/census.ts";
import type { VersionDoc } from "../store/documents.ts";
import type { Member } from "../store/heartbeats.ts";
import type { Plan } from "./plan.ts";

/** Everything that must hold before a rotation starts, as one pure function over facts. */

export interface PreflightFacts {
  plan: Exclude<Plan, { kind: "refuse" }>;
  provider: ProviderName;
  versions: VersionDoc[];
  roster: Member[];
  census: CensusRow[];
  /** Why a key could not be loaded and proved by this command, by version. */
  ownKeys: Map<number, KekError>;
  /** CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION of this command. */
  declared: number | undefined;
  /** Whether `--from-version` was given: then what is declared elsewhere is not held against anybody. */
  explicitFrom: boolean;
  times: FleetTimes;
  requireBackup: boolean;
  /** As the provider says. */
  howToBackUp: string;
}

export function preflight(facts: PreflightFacts): Problem[] {
  const { plan, versions, ownKeys } = facts;
  const problems: Problem[] = [];
  for (const error of ownKeys.values()) {
    problems.push({ code: "own_key", message: `this command: ${error.message}`, hint: error.hint });
  }
  // An open rotation has passed all this before, and its way on must not depend on a process that has died since.
  if (plan.kind === "start") {
    problems.push(
      ...fleetProblems(facts.roster, {
        provider: facts.provider,
        active: plan.from,
        target: plan.to,
        declaredMatters: !plan.wayBack,
        times: facts.times,
      }),
    );
    if (plan.wayBack && !facts.explicitFrom) {
      problems.push({
        code: "target",
        message: `KEK version ${plan.to} is retired: going back to it must be meant`,
        hint: `add --from-version=${plan.from}`,
      });
    }
    problems.push(...strays(facts.census, plan.from, plan.to));
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
  if (facts.requireBackup && target?.backup_verified_at === undefined) {
    problems.push({
      code: "backup",
      message: `no backup has been proved to hold KEK version ${plan.to}`,
      hint: facts.howToBackUp,
    });
  }
  return problems;
}

/** Envelopes at a version that is neither left nor reached would be forgotten by this rotation. */
export function strays(census: CensusRow[], from: number, to: number): Problem[] {
  return census
    .filter((row) => row.version !== String(from) && row.version !== String(to))
    .map((row) => ({
      code: "stray" as const,
      message: `${row.count} envelopes of ${row.field} are at version ${row.version}, which is neither ${from} nor ${to}`,
      hint: isVersion(row)
        ? `bring them back first: certautopilot kek rotate --to-version=${row.version} --from-version=${from}, then forward again`
        : "these are no envelopes of format 1: find them by that kek_version, and restore the field from a backup",
    }));
}
