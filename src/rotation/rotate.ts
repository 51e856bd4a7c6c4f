import { KekError } from "../errors/errors.ts";
import { ensureCollections } from "../fleet/install_start.ts";
import { loadProved, stageUnknown } from "../fleet/keystore.ts";
import { evictionMsOf, type Problem, seconds } from "../fleet/readiness.ts";
import { note } from "../store/audit_log.ts";
import { type CensusRow, takeCensus } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { evictIdle } from "../store/evictions.ts";
import { readFields } from "../store/fields.ts";
import { type Member, memberName, readRoster } from "../store/heartbeats.ts";
import { type KekState, readState } from "../store/state.ts";
import { acquire, awaitFreeLease } from "./acquire.ts";
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
  /** Say what would be done, and change nothing. */
  dryRun: boolean;
}

export interface Prepared {
  plan: Exclude<Plan, { kind: "refuse" }>;
  versions: VersionDoc[];
  roster: Member[];
  census: CensusRow[];
}

/**
 * Everything that can be known before the rotation is started.
 * @throws KekError `refused`, listing every problem with its next step.
 */
export async function prepareRotation(context: Context, options: RotateOptions, reporter: Reporter): Promise<Prepared> {
  const { store, config, provider } = context;
  await ensureCollections(store);
  const roster = await rosterAfterEvictions(context, options);
  const state = await stateOfFleet(context, roster);
  const plan = planRotation(state.versions, state.rotation, options.wanted);
  if (plan.kind === "refuse") throw await refuse(context, options, [plan.problem]);
  if (plan.kind !== "start") {
    const open = plan.kind === "resume" ? plan.rotation : plan.replaces;
    await awaitFreeLease(context, open, reporter);
  }
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
  if (problems.length > 0) throw await refuse(context, options, problems);
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

/** With a fleet at work, its processes make versions known. Without one, this command is the first that holds them. */
async function stateOfFleet({ store, auditor, provider, install }: Context, roster: Member[]): Promise<KekState> {
  const state = await readState(store);
  if (roster.length > 0) return state;
  const staged = await stageUnknown(store, auditor, provider, install.install_id, state.versions);
  return staged ? await readState(store) : state;
}

async function rosterAfterEvictions(context: Context, { evict, dryRun }: RotateOptions): Promise<Member[]> {
  const { store, auditor, config } = context;
  const roster = await readRoster(store);
  const named = (member: Member) => evict.includes(member._id) || evict.includes(member.instance_name);
  const unknown = evict.find((name) => !roster.some((member) => member._id === name || member.instance_name === name));
  if (unknown !== undefined) {
    throw new KekError("refused", `no process is called ${unknown}`, "certautopilot kek status lists the fleet");
  }
  for (const member of roster.filter(named)) {
    const silentMs = evictionMsOf(member, config.fleet);
    if (dryRun ? member.age_ms > silentMs : await evictIdle(store, auditor, member, silentMs)) continue;
    throw new KekError(
      "refused",
      `${memberName(member)} is not evicted: its last beat was ${seconds(member.age_ms)} ago, and only a process silent for ${seconds(silentMs)} is`,
      "stop it, or wait until it has been silent that long",
    );
  }
  return roster.filter((member) => !named(member));
}

/** The refusal is an audit event too. */
async function refuse(
  { store, auditor }: Context,
  { wanted, dryRun }: RotateOptions,
  problems: Problem[],
): Promise<KekError> {
  const listed = problems.map((problem) => problem.message).slice(0, 50);
  if (!dryRun) await note(store, auditor, "rotation.refused", { to: wanted.to, problems: listed });
  return refusal(problems);
}
