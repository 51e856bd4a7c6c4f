import type { Config } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { ensureCollections } from "../fleet/install_start.ts";
import { loadProved, stageUnknown, unknownVersions } from "../fleet/keystore.ts";
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
  const state = await stateOfFleet(context, roster, options);
  const census = await takeCensus(store, await readFields(store));
  const plan = planRotation(state.versions, state.rotation, options.wanted, census);
  if (plan.kind === "refuse") throw await refuse(context, options, [plan.problem]);
  if (plan.kind === "resume" || plan.kind === "reverse") {
    const open = plan.kind === "resume" ? plan.rotation : plan.replaces;
    await awaitFreeLease(context, open, reporter);
  }
  const problems = preflight({
    plan,
    provider: provider.name,
    versions: state.versions,
    roster,
    census,
    ownKeys: await proveOwnKeys(
      context,
      state.versions.filter(({ _id }) => _id === plan.from || _id === plan.to),
    ),
    declared: config.encryption.currentVersion,
    explicitFrom: options.wanted.from !== undefined,
    times: config.fleet,
    requireBackup: options.requireBackup,
    howToBackUp: provider.howToBackUp(),
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
  const doc = await acquire(context, options.wanted, prepared, reporter).catch(async (thrown) => {
    if (!(thrown instanceof KekError) || thrown.code !== "refused") throw thrown;
    await refuse(context, options, [{ code: "rotation", message: thrown.message, hint: thrown.hint }]);
    throw thrown;
  });
  crashPoint("rotation.acquired");
  onStarted(doc);
  return await new Coordinator(context, doc, options, reporter).run();
}

// ---------------------------------------------------------------------------------------------------------------------

/** Why keys could not be loaded and proved here, by version. */
async function proveOwnKeys(context: Context, wanted: VersionDoc[]): Promise<Map<number, KekError>> {
  const failed = new Map<number, KekError>();
  for (const doc of wanted) {
    try {
      // One that a dry run would make known has no canary yet.
      if (doc.canary === undefined) await context.provider.load(doc._id);
      else await loadProved(context.provider, context.install.install_id, doc);
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      failed.set(doc._id, thrown);
    }
  }
  return failed;
}

/**
 * With a fleet at work, its processes make versions known. Without one, this command is the first that holds them: it makes
 * them known after it has proved the version in use, and in a dry run only says that it would.
 */
async function stateOfFleet(context: Context, roster: Member[], { dryRun }: RotateOptions): Promise<KekState> {
  const { store, auditor, provider, install } = context;
  const state = await readState(store);
  if (roster.length > 0) return state;
  const active = state.versions.filter((version) => version.state === "active");
  if ((await proveOwnKeys(context, active)).size > 0) return state;
  if (dryRun) {
    const held = await unknownVersions(provider, state.versions);
    const wouldBe = held.map((_id) => ({ _id, state: "staged", provider: provider.name, wraps: 0 }) as VersionDoc);
    return { ...state, versions: [...state.versions, ...wouldBe] };
  }
  const staged = await stageUnknown(store, auditor, provider, install.install_id, state.versions);
  return staged ? await readState(store) : state;
}

/** A name may be a dead process's and its successor's: the silent ones are meant. */
async function rosterAfterEvictions(context: Context, options: RotateOptions): Promise<Member[]> {
  const { store, auditor, config } = context;
  const roster = await readRoster(store);
  const gone = new Set<string>();
  for (const name of options.evict) {
    const named = roster.filter((member) => member._id === name || member.instance_name === name);
    for (const member of named) {
      const silentMs = evictionMsOf(member, config.fleet);
      const evicted = options.dryRun ? member.age_ms > silentMs : await evictIdle(store, auditor, member, silentMs);
      if (evicted) gone.add(member._id);
    }
    if (!named.some((member) => gone.has(member._id)))
      throw await refuse(context, options, [notEvicted(name, named, config)]);
  }
  return roster.filter((member) => !gone.has(member._id));
}

function notEvicted(name: string, named: Member[], config: Config): Problem {
  const [member] = named;
  if (member === undefined) {
    return {
      code: "silent",
      message: `no process is called ${name}`,
      hint: "certautopilot kek status lists the fleet",
    };
  }
  const needed = seconds(evictionMsOf(member, config.fleet));
  return {
    code: "silent",
    message: `${memberName(member)} is not evicted: its last beat was ${seconds(member.age_ms)} ago, and only a process silent for ${needed} is`,
    hint: "stop it, or wait until it has been silent that long",
  };
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
