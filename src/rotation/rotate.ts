import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { ensureCollections } from "../fleet/install_start.ts";
import { loadProved, stageUnknown, unknownVersions } from "../fleet/keystore.ts";
import type { Problem } from "../fleet/readiness.ts";
import { note } from "../store/audit_log.ts";
import { type CensusRow, takeCensus } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { type Member, readRoster } from "../store/heartbeats.ts";
import { type KekState, readState } from "../store/state.ts";
import { acquire, awaitFreeLease } from "./acquire.ts";
import type { Context, Reporter } from "./context.ts";
import { Coordinator, type CoordinatorOptions, type RotationSummary } from "./coordinator.ts";
import { evictNamed, namedEvictions, nobodyToEvict, notEvicted } from "./named_evictions.ts";
import { type Plan, planRotation, type Wanted } from "./plan.ts";
import { type BackupCheck, preflight } from "./preflight.ts";
import { refusal } from "./refusal.ts";

/** `kek rotate`: from what the operator wants to a coordinator that runs, or a refusal that names every reason. */

export interface RotateOptions extends CoordinatorOptions {
  wanted: Wanted;
  /** Refuse in every case unless a backup of the target's key is verified. */
  requireBackup: boolean;
  /** Start without a verified backup. */
  noBackupCheck: boolean;
  /** Processes to take off the roster first, by heartbeat id or instance name. */
  evict: string[];
  /** Say what would be done, and change nothing. */
  dryRun: boolean;
}

export interface Prepared {
  plan: Exclude<Plan, { kind: "refuse" }>;
  versions: VersionDoc[];
  /** Without those that are to be evicted. */
  roster: Member[];
  /** Whom `runRotation` takes off the roster first. */
  evict: Member[];
  census: CensusRow[];
}

/**
 * Everything that can be known before the rotation is started.
 * @throws KekError `refused`, listing every problem with its next step.
 */
export async function prepareRotation(context: Context, options: RotateOptions, reporter: Reporter): Promise<Prepared> {
  const { store, config, provider } = context;
  await ensureCollections(store);
  const everybody = await readRoster(store);
  const named = namedEvictions(everybody, options.evict, config.fleet);
  const roster = everybody.filter((member) => !named.silent.includes(member));
  const state = await stateOfFleet(context, roster, options);
  const census = await takeCensus(store, await readFields(store));
  const plan = planRotation(state.versions, state.rotation, options.wanted, provider, census);
  if (plan.kind === "refuse") throw await refuse(context, options, [plan.problem]);
  const [unmet] = named.unmet;
  if (plan.kind === "start" || plan.kind === "mend") {
    if (unmet !== undefined) throw await refuse(context, options, [notEvicted(unmet, config.fleet)]);
  } else {
    for (const each of named.unmet) reporter.note(nobodyToEvict(each));
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
    backup: backupCheck(options),
    copyable: provider.copyable,
    howToBackUp: provider.howToBackUp(),
  });
  if (problems.length > 0) throw await refuse(context, options, problems);
  return { plan, versions: state.versions, roster, evict: named.silent, census };
}

/**
 * Evicts whom it was told to, starts, resumes or reverses, and leads the rotation to its end.
 * @param onStarted gets the rotation as soon as this command coordinates it, so that it can be cancelled.
 */
export async function runRotation(
  context: Context,
  options: RotateOptions,
  prepared: Prepared,
  reporter: Reporter,
  onStarted: (doc: RotationDoc) => void,
): Promise<RotationSummary> {
  const awake = await evictNamed(context, prepared.evict);
  if (awake !== undefined) throw await refuse(context, options, [awake]);
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

function backupCheck({ requireBackup, noBackupCheck }: RotateOptions): BackupCheck {
  if (requireBackup) return "required";
  return noBackupCheck ? "skipped" : "default";
}

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
