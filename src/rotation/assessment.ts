import { KekError } from "../errors/errors.ts";
import { loadVerified, stageUnknown, unknownVersions } from "../fleet/key_loader.ts";
import type { VersionDoc } from "../protocol/documents.ts";
import type { Member } from "../protocol/member.ts";
import { type BackupCheck, preflight } from "../protocol/preflight.ts";
import type { Problem } from "../protocol/problem.ts";
import { type Plan, planRotation, type RotationRequestVersions } from "../protocol/rotation_plan.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import { fieldProblems } from "../status/field_problems.ts";
import { checkSecret } from "../store/audit_log.ts";
import { type FieldFacts, readFieldFacts } from "../store/field_facts.ts";
import { readFields } from "../store/fields.ts";
import { type KekState, readState } from "../store/state.ts";
import { countVersions } from "../store/version_counts.ts";
import type { Context, Reporter } from "./context.ts";
import { type NamedEvictions, namedEvictions, watchNamed } from "./named_evictions.ts";

/** What `kek rotate` would do in the state as it is, and everything that stands against it: for itself and for `kek verify --target`. */

export interface RotationRequest {
  wanted: RotationRequestVersions;
  backup: BackupCheck;
  /** Processes to take off the roster first, by heartbeat id or instance name. */
  evict: string[];
  /** Change nothing: not even versions are made known. */
  dryRun: boolean;
}

export interface Assessment {
  plan: Plan;
  state: KekState;
  /** Without those that are to be evicted. */
  roster: Member[];
  named: NamedEvictions;
  fields: FieldFacts;
  versionCounts: VersionCount[];
  /** Of a plan that refuses, its reason alone. */
  problems: Problem[];
}

/** @param reporter hears of what it waits for: a process that is to be evicted, and whose last heartbeat no clock can tell the age of. */
export async function assessRotation(
  context: Context,
  request: RotationRequest,
  reporter: Pick<Reporter, "note">,
): Promise<Assessment> {
  const { store, config, provider } = context;
  const { wanted, backup, evict } = request;
  const everybody = await watchNamed(context, evict, reporter);
  const named = namedEvictions(everybody, evict, config.fleet);
  const roster = everybody.filter((member) => !named.silent.includes(member));
  const state = await stateOfFleet(context, roster, request);
  const registered = await readFields(store);
  const [versionCounts, fields] = await Promise.all([
    countVersions(store, registered),
    readFieldFacts(store, registered),
  ]);
  const plan = planRotation({
    versions: state.versions,
    rotation: state.rotation,
    wanted,
    keys: provider,
    versionCounts,
  });
  const found = { plan, state, roster, named, fields, versionCounts };
  if (plan.kind === "refuse") return { ...found, problems: [plan.problem] };
  const keys = state.versions.filter(({ _id }) => _id === plan.from || _id === plan.to);
  const problems = preflight({
    plan,
    provider: provider.name,
    versions: state.versions,
    roster,
    versionCounts,
    fieldProblems: fieldProblems(fields),
    ownKeys: await proveOwnKeys(context, keys),
    declared: config.encryption.currentVersion,
    explicitFrom: wanted.from !== undefined,
    times: config.fleet,
    backup,
    copyable: provider.copyable,
    howToBackUp: provider.howToBackUp(),
  });
  return { ...found, problems: [...(await auditProblems(context)), ...problems] };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Without the fleet's audit secret this command could change nothing. */
async function auditProblems({ store, auditor }: Context): Promise<Problem[]> {
  try {
    await checkSecret(store, auditor);
    return [];
  } catch (thrown) {
    if (!(thrown instanceof KekError) || thrown.code !== "audit_secret") throw thrown;
    return [{ code: "audit_chain", message: thrown.message, hint: thrown.hint }];
  }
}

/** Why keys could not be loaded and verified here, by version. */
async function proveOwnKeys(context: Context, wanted: VersionDoc[]): Promise<Map<number, KekError>> {
  const failed = new Map<number, KekError>();
  for (const doc of wanted) {
    try {
      // One that a dry run would make known has no canary yet.
      if (doc.canary === undefined) await context.provider.load(doc._id);
      else await loadVerified(context.provider, context.install.install_id, doc);
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      failed.set(doc._id, thrown);
    }
  }
  return failed;
}

/**
 * With a fleet at work, its processes make versions known. Without one, this command is the first that holds them: it makes
 * them known after it has verified the version in use, and in a dry run only says that it would.
 */
async function stateOfFleet(context: Context, roster: Member[], { dryRun }: RotationRequest): Promise<KekState> {
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
  const staged = await stageUnknown(store, { auditor, provider, installId: install.install_id, known: state.versions });
  return staged ? await readState(store) : state;
}
