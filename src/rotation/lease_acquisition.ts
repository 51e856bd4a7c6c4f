import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { KekError } from "../errors/errors.ts";
import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { type Plan, planRotation, type RotationRequestVersions } from "../protocol/rotation_plan.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import { firstCounts } from "../status/field_problems.ts";
import type { FieldFacts } from "../store/field_facts.ts";
import { takeOver } from "../store/rotation_lease.ts";
import { startRotation } from "../store/rotation_steps.ts";
import { newestRotation, type WatchedLease } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { serverNow } from "../store/store.ts";
import { seconds } from "../util/duration.ts";
import { ChangeTimer } from "./change_timer.ts";
import { type Context, longestBatchMs, longestLeaseMs, type Reporter } from "./context.ts";
import { refusal } from "./refused_error.ts";

/** How a command becomes the coordinator: by starting a rotation, or by taking over one that nobody leads. */

/**
 * Tries until this command holds the lease, or somebody else lives and does.
 * @param checked what passed the preflight.
 * @throws KekError `refused`.
 */
export async function acquire(
  context: Context,
  wanted: RotationRequestVersions,
  { plan: checked, versions, fields, versionCounts, watched: watchedBefore }: Checked,
  reporter: Reporter,
): Promise<RotationDoc> {
  const { store, auditor, config } = context;
  const { leaseMs } = config.fleet;
  const graceMs = await longestBatchMs(context);
  const owner = auditor.actor;
  const canary = versions.find((version) => version._id === checked.to)?.canary;
  const first = firstCounts(fields, versionCounts, checked.from);
  const common = { owner, leaseMs, graceMs, fields: first, ...(canary === undefined ? {} : { canary }) };
  let watched = watchedBefore;
  for (;;) {
    const plan = await planNow(context, wanted, checked, versionCounts);
    if (plan.kind === "start" || plan.kind === "repair") {
      const { from, to, kind } = plan;
      const repairs = kind === "repair";
      const doc = await startRotation(store, auditor, { from, to, ...common, replaces: undefined, repairs });
      if (doc !== undefined) return doc;
      // Another command was first, or the version was made again: look at what became of the state.
      await refuseChanged(context, checked.to, canary);
      continue;
    }
    const open = plan.kind === "resume" ? plan.rotation : plan.replaces;
    watched = await awaitFreeLease(context, open, reporter, watched);
    const fresh = await planNow(context, wanted, checked, versionCounts);
    if (fresh.kind === "resume") {
      const doc = await takeOver(store, { auditor, seen: fresh.rotation, owner, leaseMs, graceMs, watched });
      if (doc === undefined) continue;
      reporter.note(`going on with rotation ${doc._id} (${doc.from} → ${doc.to}), phase ${doc.phase}`);
      return doc;
    }
    if (fresh.kind === "reverse") {
      const { from, to, replaces } = fresh;
      const doc = await startRotation(store, auditor, { from, to, ...common, replaces, watched });
      if (doc !== undefined) return doc;
    }
  }
}

/**
 * A coordinator that lives renews its lease, and is left alone; one that died lets it run out, and is waited out. A lease that
 * has more left than a lease lasts was granted before MongoDB's clock was set back: then the monotonic clock of this process
 * decides, and the lease may be taken only as it was watched.
 * @param watched what an earlier call returned.
 * @returns the lease that was watched for long enough, where it is not over by MongoDB's clock.
 * @throws KekError `refused` when the rotation is in good hands.
 */
export async function awaitFreeLease(
  context: Context,
  seen: RotationDoc,
  reporter: Reporter,
  watched?: WatchedLease,
): Promise<WatchedLease | undefined> {
  const { store, config } = context;
  const graceMs = await longestBatchMs(context);
  const changeTimer = new ChangeTimer(config.fleet.leaseMs / 3);
  const told = new Set<string>();
  const tell = (what: string, message: string) => {
    if (!told.has(what)) reporter.note(message);
    told.add(what);
  };
  let last = seen.lease?.expires_at.getTime();
  let renewals = 0;
  for (;;) {
    const doc = await newestRotation(store);
    if (
      doc === undefined ||
      doc._id !== seen._id ||
      doc.lease === null ||
      doc.lease.owner === null ||
      doc.open === undefined
    )
      return undefined;
    const { owner, expires_at: expires, token } = doc.lease;
    if (expires.getTime() !== last) renewals += 1;
    last = expires.getTime();
    // One renewal may be of a coordinator that died while MongoDB had it in hand.
    if (renewals > 1 || token !== seen.lease?.token) {
      throw new KekError(
        "refused",
        `the rotation ${doc.from} → ${doc.to} is already run by ${owner}`,
        "follow it: certautopilot kek status --watch  or stop it: certautopilot kek rotate --cancel",
      );
    }
    const now = { rotation: doc._id, token, expires_at: expires };
    if (watched !== undefined && isDeepStrictEqual(now, watched)) return watched;
    const left = expires.getTime() + graceMs - (await serverNow(store)).getTime();
    if (left < 0) return undefined;
    changeTimer.look([[LEASE, expires.getTime()]]);
    const longest = config.fleet.leaseMs + graceMs < left ? (await longestLeaseMs(context)) + graceMs : left;
    if (left > longest) {
      if (changeTimer.ms(LEASE) > longest) return now;
      const ahead = seconds(left - longest);
      tell(
        "set back",
        `MongoDB's clock was set back by ${ahead} or more since the lease of ${owner} was renewed: waiting ${seconds(longest)} by this host's clock to see whether it lives`,
      );
    } else
      tell("held", `the rotation's lease is held by ${owner}: waiting up to ${seconds(left)} to see whether it lives`);
    await sleep(Math.min(500, left + 10));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

type CheckedPlan = Exclude<Plan, { kind: "refuse" }>;

interface Checked {
  plan: CheckedPlan;
  /** The versions as the preflight read and verified them. */
  versions: VersionDoc[];
  fields: FieldFacts;
  versionCounts: VersionCount[];
  /** The lease that was waited for before the question was asked: it need not be waited for again. */
  watched?: WatchedLease | undefined;
}

/** @throws KekError `refused` when the version that was verified is not the one that is there. */
async function refuseChanged(
  context: Context,
  version: number,
  canary: VersionDoc["canary"] | undefined,
): Promise<void> {
  const { versions } = await readState(context.store);
  const doc = versions.find((entry) => entry._id === version);
  if (canary === undefined || (doc !== undefined && Buffer.from(doc.canary.buffer).equals(canary.buffer))) return;
  throw new KekError(
    "refused",
    `KEK version ${version} was removed or made again while this command was preparing`,
    "nothing was changed by it; run it again",
  );
}

/** The plan in the state as it is now. What the preflight checked must still be what is about to happen. */
async function planNow(
  context: Context,
  wanted: RotationRequestVersions,
  checked: CheckedPlan,
  versionCounts: VersionCount[],
): Promise<CheckedPlan> {
  const { versions, rotation } = await readState(context.store);
  // Only a count that was taken to repair stale envelopes speaks of stale envelopes: while a rotation ran, what it had not moved yet was counted.
  const staleVersions = checked.kind === "repair" ? versionCounts : [];
  const plan = planRotation({ versions, rotation, wanted, keys: context.provider, versionCounts: staleVersions });
  if (plan.kind === "refuse") throw refusal([plan.problem]);
  if (plan.from !== checked.from) {
    throw new KekError(
      "refused",
      `the install went from version ${checked.from} to ${plan.from} while this command was preparing`,
      "nothing was changed by it; run it again",
    );
  }
  // Going on with a rotation asks less of the fleet than beginning one does.
  const open = checked.kind === "reverse" ? checked.replaces : checked;
  const begins = plan.kind === "start" || plan.kind === "repair";
  if (begins && plan.kind !== checked.kind) {
    throw new KekError(
      "refused",
      `the open rotation ${open.from} → ${open.to} came to its end, or was cancelled, while this command was preparing`,
      "nothing was changed by it; run it again to begin one",
    );
  }
  return plan;
}

const LEASE = "lease";
