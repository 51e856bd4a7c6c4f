import { KekError } from "../errors/errors.ts";
import { ensureCollections } from "../fleet/install_start.ts";
import { loadProved, stageUnknown } from "../fleet/keystore.ts";
import { type Problem, seconds } from "../fleet/readiness.ts";
import { note } from "../store/audit_log.ts";
import { type CensusRow, takeCensus } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { evictIdle } from "../store/evictions.ts";
import { readFields } from "../store/fields.ts";
import { type Member, memberName, readRoster } from "../store/heartbeats.ts";
import { readState } from "../store/state.ts";
import { acquire } from "./acquire.ts";
import type { Context, Reporter } from "./context.ts";
import { Coordinator, type CoordinatorOptions, type RotationSummary } from "./coordinator.ts";
import { type Plan, planRotation, type Wanted } from "./plan.ts";
import { preflight } from "./preflight.ts";
import { refusal } from "./refusal.ts";

/** `kek rotate`: from what the operator wants to a coordinator that runs, or a refusal that names every reason. */

export interface RotateOptions extends CoordinatorOptions {
  wanted: Wanted;
  requireBackup: boolean;
  /** Processes to take off the roster first, by heartbeat id or instance name. */
  evict: string[];
}

export interface Prepared {
  plan: Exclude<Plan, { kind: "refuse" }>;
  versions: VersionDoc[];
  roster: Member[];
  census: CensusRow[];
}

/**
 * Everything that can be known before anything is changed.
 * @throws KekError `refused`, listing every problem with its next step.
 */
export async function prepareRotation(context: Context, options: RotateOptions): Promise<Prepared> {
  const { store, config, provider, install, auditor } = context;
  await ensureCollections(store);
  await evictNamed(context, options.evict);
  const roster = await readRoster(store);
  let state = await readState(store);
  // With a fleet at work, its processes make versions known. Without one, this command is the first that holds them.
  if (roster.length === 0 && (await stageUnknown(store, auditor, provider, install.install_id, state.versions))) {
    state = await readState(store);
  }
  const plan = planRotation(state.versions, state.rotation, options.wanted);
  if (plan.kind === "refuse") throw await refuse(context, options.wanted, [plan.problem]);
  const census = await takeCensus(store, await readFields(store));
  const problems = preflight({
    plan,
    provider: provider.name,
    versions: state.versions,
    roster,
    census,
    ownKeys: await proveOwnKeys(context, state.versions, [plan.from, plan.to]),
    declared: config.encryption.currentVersion,
    explicitFrom: options.wanted.from !== undefined,
    times: config.fleet,
    requireBackup: options.requireBackup,
  });
  if (problems.length > 0) throw await refuse(context, options.wanted, problems);
  return { plan, versions: state.versions, roster, census };
}

/**
 * Starts, resumes or reverses, and leads the rotation to its end.
 * @param onStarted gets the rotation as soon as this command coordinates it, so that it can be cancelled.
 */
export async function runRotation(
  context: Context,
  options: RotateOptions,
  prepared: Prepared,
  reporter: Reporter,
  onStarted: (doc: RotationDoc) => void,
): Promise<RotationSummary> {
  const doc = await acquire(context, options.wanted, prepared.plan, reporter);
  onStarted(doc);
  return await new Coordinator(context, doc, options, reporter).run();
}

// ---------------------------------------------------------------------------------------------------------------------

async function proveOwnKeys(
  context: Context,
  versions: VersionDoc[],
  wanted: number[],
): Promise<Map<number, KekError>> {
  const failed = new Map<number, KekError>();
  for (const doc of versions.filter((version) => wanted.includes(version._id))) {
    try {
      await loadProved(context.provider, context.install.install_id, doc);
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      failed.set(doc._id, thrown);
    }
  }
  return failed;
}

async function evictNamed(context: Context, names: string[]): Promise<void> {
  const { store, auditor, config } = context;
  for (const name of names) {
    const members = (await readRoster(store)).filter((member) => member._id === name || member.instance_name === name);
    if (members.length === 0)
      throw new KekError("refused", `no process is called ${name}`, "certautopilot kek status lists the fleet");
    for (const member of members) {
      if (await evictIdle(store, auditor, member, config.fleet.evictionMs)) continue;
      throw new KekError(
        "refused",
        `${memberName(member)} is not evicted: its last beat was ${seconds(member.age_ms)} ago, and only a process silent for ${seconds(config.fleet.evictionMs)} is`,
        "stop it, or wait until it has been silent that long",
      );
    }
  }
}

/** The refusal is an audit event too. */
async function refuse(context: Context, wanted: Wanted, problems: Problem[]): Promise<KekError> {
  await note(context.store, context.auditor, "rotation.refused", {
    to: wanted.to,
    problems: problems.map((problem) => problem.message).slice(0, 50),
  });
  return refusal(problems);
}
