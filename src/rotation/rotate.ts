import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { ensureCollections } from "../fleet/open_install.ts";
import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import type { Member } from "../protocol/member.ts";
import type { Problem } from "../protocol/problem.ts";
import type { Plan } from "../protocol/rotation_plan.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import { note } from "../store/audit_log.ts";
import type { FieldFacts } from "../store/field_facts.ts";
import type { WatchedLease } from "../store/rotations.ts";
import { assessRotation, type RotationRequest } from "./assessment.ts";
import type { Context, Reporter } from "./context.ts";
import { Coordinator, type CoordinatorOptions, type RotationSummary } from "./coordinator.ts";
import { acquire, awaitFreeLease } from "./lease_acquisition.ts";
import { evictNamed, nobodyToEvict, notEvicted } from "./named_evictions.ts";
import { refusal } from "./refused_error.ts";

/** `kek rotate`: from what the operator wants to a coordinator that runs, or a refusal that names every reason. */

export interface RotateOptions extends CoordinatorOptions, RotationRequest {}

export interface Prepared {
  plan: Exclude<Plan, { kind: "refuse" }>;
  versions: VersionDoc[];
  /** Without those that are to be evicted. */
  roster: Member[];
  /** Whom `runRotation` takes off the roster first. */
  evict: Member[];
  fields: FieldFacts;
  versionCounts: VersionCount[];
  /** The open rotation's lease, where only the clock of this host says that it is over. */
  watched: WatchedLease | undefined;
}

/**
 * Everything that can be known before the rotation is started.
 * @throws KekError `refused`, listing every problem with its next step.
 */
export async function prepareRotation(context: Context, options: RotateOptions, reporter: Reporter): Promise<Prepared> {
  const { store, config } = context;
  await ensureCollections(store);
  const { plan, state, roster, named, fields, versionCounts, problems } = await assessRotation(
    context,
    options,
    reporter,
  );
  if (plan.kind === "refuse") throw await refuse(context, options, problems);
  let watched: WatchedLease | undefined;
  const [unmet] = named.unmet;
  if (plan.kind === "start" || plan.kind === "repair") {
    if (unmet !== undefined) throw await refuse(context, options, [notEvicted(unmet, config.fleet)]);
  } else {
    for (const each of named.unmet) reporter.note(nobodyToEvict(each));
    const open = plan.kind === "resume" ? plan.rotation : plan.replaces;
    watched = await awaitFreeLease(context, open, reporter);
  }
  if (problems.length > 0) throw await refuse(context, options, problems);
  return { plan, versions: state.versions, roster, evict: named.silent, fields, versionCounts, watched };
}

/**
 * Evicts whom it was told to, starts, resumes or reverses, and leads the rotation to its end.
 * @param onStarted gets the rotation as soon as this command coordinates it, so that it can be cancelled.
 */
export async function runRotation(
  context: Context,
  {
    options,
    prepared,
    reporter,
    onStarted,
  }: { options: RotateOptions; prepared: Prepared; reporter: Reporter; onStarted: (doc: RotationDoc) => void },
): Promise<RotationSummary> {
  const awake = await evictNamed(context, prepared.evict);
  if (awake !== undefined) throw await refuse(context, options, [awake]);
  const doc = await acquire(context, options.wanted, prepared, reporter).catch(async (thrown) => {
    if (!(thrown instanceof KekError) || thrown.code !== "refused") throw thrown;
    await refuse(context, options, [{ code: "rotation", message: thrown.message, hint: thrown.hint }]);
    throw thrown;
  });
  if (import.meta.crashPoints) crashPoint("rotation.acquired");
  onStarted(doc);
  return await new Coordinator(context, doc, options, reporter).run();
}

// ---------------------------------------------------------------------------------------------------------------------

/** The refusal is an audit event too. */
async function refuse(
  { store, auditor }: Context,
  { wanted, dryRun }: RotateOptions,
  problems: Problem[],
): Promise<KekError> {
  const listed = problems.map((problem) => problem.message).slice(0, 50);
  // Under another audit secret nothing can be written to the log, not even this.
  if (!dryRun && !problems.some(({ code }) => code === "audit_chain"))
    await note(store, auditor, "rotation.refused", { to: wanted.to, problems: listed });
  return refusal(problems);
}
