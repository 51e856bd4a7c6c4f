import type { FleetTimes } from "../config/config.ts";
import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { leaseMsOf } from "../protocol/fleet_times.ts";
import { keyPolicyOf } from "../protocol/key_policy.ts";
import { type Member, memberName } from "../protocol/member.ts";
import { isOpen } from "../protocol/phases.ts";
import type { Problem } from "../protocol/problem.ts";
import { fleetProblems } from "../protocol/readiness.ts";
import { wrapProblems, wrapsPercent, wrapWarnings, writable } from "../protocol/wrap_limit.ts";
import { dueAt, holds, judgeFacts, listedFindings } from "./findings.ts";
import { driftProblems, idleProblems } from "./fleet_problems.ts";
import { healthOf } from "./health.ts";
import { follows, rotationView } from "./rotation_view.ts";
import type { StatusFacts } from "./status_facts.ts";
import type { ProcessView, StatusView, VersionView } from "./status_view.ts";

/** The view of an install: pure. */
export function viewOf(facts: StatusFacts): StatusView {
  const { now, install, state, roster, versionCounts, history, audit, times } = facts;
  const policy = keyPolicyOf(state.versions, state.rotation);
  const open = state.rotation !== undefined && isOpen(state.rotation) ? state.rotation : undefined;
  const ready = fleetProblems(roster, {
    provider: install.provider,
    active: policy?.write,
    target: policy?.readable.find((version) => version !== policy.write && version !== policy.leaving),
    declaredMatters: false,
    times,
    ...(open === undefined ? {} : { rotatesTo: open.to }),
  });
  const problems = [...ready, ...idleProblems(roster, state, now, times)];
  const drift = driftProblems(roster, state);
  const findings = judgeFacts(facts);
  const written = writable(state.versions, open);
  const rotation = open === undefined ? null : rotationView(open, now, roster);
  const versions = state.versions.map((doc) => versionView(doc, facts));
  return {
    at: now.toISOString(),
    health: healthOf({
      writeVersion: policy?.write,
      processes: roster.filter(({ acked }) => acked !== null).length,
      joining: roster.filter(({ acked }) => acked === null).length,
      rotation,
      left: versions.find(({ version }) => version === open?.from)?.records ?? 0,
      findings: listedFindings(findings),
      urgent: findings.urgent.length,
      due: findings.due.length,
    }),
    install: {
      provider: install.provider,
      install_id: install.install_id,
      locked_at: install.locked_at.toISOString(),
      locked_by: install.locked_by,
    },
    phase: policy?.phase ?? 0,
    write_version: policy?.write ?? null,
    versions,
    version_counts: versionCounts.rows,
    version_counts_at: versionCounts.at.toISOString(),
    rotation,
    // One that was started, or ended, since the state was read is shown with the next look.
    history: history.filter((doc) => doc._id !== open?._id && !isOpen(doc)).map((doc) => rotationView(doc, now)),
    processes: roster.map((member) => processView(member, open, [...problems, ...drift], times)),
    drift,
    wraps: [...wrapProblems(written), ...wrapWarnings(written)],
    audit: {
      events: audit.entries.map((entry) => ({
        seq: entry.seq,
        at: entry.at.toISOString(),
        actor: entry.actor,
        event: entry.event,
        data: entry.data,
      })),
      chain: audit.chain,
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

function versionView(doc: VersionDoc, { now, roster, versionCounts, rotationPeriodMs }: StatusFacts): VersionView {
  const wrong = (member: Member) =>
    (member.problems ?? []).some(({ version, reason }) => version === doc._id && reason === "wrong_key");
  const due = dueAt(doc, rotationPeriodMs);
  return {
    version: doc._id,
    state: doc.state,
    canary: {
      verified_by: roster.filter((member) => holds(member, doc._id)).length,
      of: roster.length,
      wrong_key: roster.filter(wrong).map(memberName),
    },
    records: versionCounts.rows
      .filter((row) => row.version === String(doc._id))
      .reduce((total, row) => total + row.count, 0),
    wraps: Number(doc.wraps),
    wraps_percent: wrapsPercent(doc),
    since: sinceOf(doc).toISOString(),
    age_ms: Math.max(0, now.getTime() - doc.staged_at.getTime()),
    due_at: due?.toISOString() ?? null,
    overdue: due !== null && due < now,
    backup_verified_at: doc.backup_verified_at?.toISOString() ?? null,
  };
}

/** Since when it is in the state it is in. A version that is used again has been retired before, and a retired one active. */
function sinceOf({ state, staged_at, activated_at, retired_at, destroyed_at }: VersionDoc): Date {
  const times = { staged: staged_at, active: activated_at, retired: retired_at, destroyed: destroyed_at };
  return times[state] ?? staged_at;
}

function processView(
  member: Member,
  open: RotationDoc | undefined,
  problems: Problem[],
  times: FleetTimes,
): ProcessView {
  return {
    id: member._id,
    name: member.instance_name,
    role: member.role,
    host: member.host,
    pid: member.pid,
    provider: member.provider,
    loaded: member.loaded,
    current_version: member.current_version,
    write_version: member.write_version,
    acked: member.acked,
    acknowledged: open?.state === "running" ? follows(open, member) : null,
    started_at: member.started_at.toISOString(),
    last_beat_ms: Math.max(0, Math.round(member.age_ms)),
    silent: member.age_ms > leaseMsOf(member, times),
    problems: problems.filter(({ process }) => process === member._id).map(({ message, hint }) => ({ message, hint })),
  };
}
