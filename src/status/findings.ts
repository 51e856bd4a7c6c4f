import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { leaseMsOf } from "../protocol/fleet_times.ts";
import { type KeyPolicy, keyPolicyOf } from "../protocol/key_policy.ts";
import { type Member, memberName } from "../protocol/member.ts";
import { isOpen } from "../protocol/phases.ts";
import type { Problem } from "../protocol/problem.ts";
import { fleetProblems } from "../protocol/readiness.ts";
import { staleEnvelopeProblems } from "../protocol/stale_envelopes.ts";
import { wrapProblems, wrapWarnings, writable } from "../protocol/wrap_limit.ts";
import { seconds } from "../util/duration.ts";
import { emptiedFields, fieldProblems, missingIndexes, rejectingProblems, unfencedProblems } from "./field_problems.ts";
import { driftProblems, idleProblems, isLed, unledRotation } from "./fleet_problems.ts";
import type { StatusFacts } from "./status_facts.ts";
import type { Finding } from "./status_view.ts";

/** What somebody must see to, and how soon: pure. */

/** What is wrong, or will be, with an install as it stands. One set for `kek verify`, `kek status`, the page and the metrics. */
export interface JudgedFacts {
  /** Somebody must act now. The most urgent first. */
  urgent: Problem[];
  /** Somebody must act soon. */
  due: Problem[];
}

export function judgeFacts(facts: StatusFacts): JudgedFacts {
  const { state, roster, versionCounts, fields, audit, now, times, install } = facts;
  const policy = keyPolicyOf(state.versions, state.rotation);
  const open = state.rotation !== undefined && isOpen(state.rotation) ? state.rotation : undefined;
  const written = writable(state.versions, open);
  const unled = unledRotation(open, now);
  const joining = roster.filter((member) => isJoining(member, facts));
  const urgentOf = (problem: Problem) => isUrgent(problem, joining);
  const led = open !== undefined && isLed(open, now);
  const [from, to] = [open?.from ?? policy?.write, open?.to ?? policy?.write];
  const drift = driftProblems(roster, state);
  const problems = [
    ...fleetProblems(roster, {
      provider: install.provider,
      active: policy?.write,
      target: policy?.readable.find((version) => version !== policy.write && version !== policy.leaving),
      declaredMatters: false,
      times,
      ...(open === undefined ? {} : { rotatesTo: open.to }),
    }),
    ...idleProblems(roster, state, now, times),
  ];
  return {
    urgent: [
      ...noVersion(policy),
      ...(roster.length === 0 && policy !== undefined ? [NO_PROCESS] : []),
      ...wrapProblems(written),
      ...(open?.state === "cancelled" ? [] : unled),
      ...failedRecords(open),
      ...problems
        .filter(urgentOf)
        .map((problem) => (led && problem.code === "silent" ? evictedSoon(problem, facts) : problem)),
      ...drift.filter(({ code }) => code === "write_version"),
      ...(from === undefined || to === undefined
        ? []
        : staleEnvelopeProblems({ versionCounts: versionCounts.rows, versions: state.versions, from, to })),
      ...fieldProblems(fields),
      ...rejectingProblems(fields, policy?.write, state.rotation),
      ...(open === undefined ? unfencedProblems(fields, state.rotation) : []),
      ...(audit.chain.state === "broken" ? [brokenChain(audit.chain.fault)] : []),
    ],
    due: [
      ...(open?.state === "cancelled" ? unled : []),
      ...problems.filter((problem) => !urgentOf(problem)),
      ...otherDeclarations(facts, policy, drift),
      ...notFenced(state.rotation),
      ...missingIndexes(fields),
      ...(open === undefined ? emptiedFields(fields, versionCounts.rows, state.rotation) : []),
      ...wrapWarnings(written),
      ...state.versions.filter((doc) => doc._id !== open?.from).flatMap((doc) => wasDue(doc, facts)),
      ...state.versions.filter((doc) => nobodyHolds(doc, facts, open)).map(stagedForNobody),
    ],
  };
}

/** Findings for people on one screen: more than a few of one kind are counted. */
export function listedFindings({ urgent, due }: JudgedFacts): Finding[] {
  return [
    ...gathered(urgent).map((found) => ({ ...found, urgent: true })),
    ...gathered(due).map((found) => ({ ...found, urgent: false })),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------

const SHOWN = 3;

/** A fleet of hundreds may have one and the same trouble hundreds of times. */
function gathered(found: Problem[]): Pick<Finding, "message" | "hint">[] {
  const codes = [...new Set(found.map(({ code }) => code))];
  return codes.flatMap((code) => {
    const alike = found.filter((each) => each.code === code).map(({ message, hint }) => ({ message, hint }));
    const more = alike.length - SHOWN;
    if (more <= 1) return alike;
    return [
      ...alike.slice(0, SHOWN),
      { message: `${more} more like it`, hint: "see them all: certautopilot kek status --json" },
    ];
  });
}

/** Keys are loaded after the first heartbeat: for as long as a lease a process may be on its way. */
function isJoining(member: Member, { now, times }: StatusFacts): boolean {
  const leaseMs = leaseMsOf(member, times);
  return member.acked === null && member.age_ms <= leaseMs && now.getTime() - member.started_at.getTime() <= leaseMs;
}

/** Other fleet times stop the next rotation, and nothing now. */
function isUrgent({ code, process }: Problem, joining: Member[]): boolean {
  if (code === "fleet_times") return false;
  const onItsWay = code === "joining" || code === "lacks_version";
  return !(onItsWay && joining.some((member) => member._id === process));
}

function evictedSoon(problem: Problem, { times }: StatusFacts): Problem {
  const hint = `start it again; the rotation waits for it until it has been silent for ${seconds(times.evictionMs)}, and then continues without it`;
  return { ...problem, hint };
}

const NO_PROCESS: Problem = {
  code: "silent",
  message: "no process is in the fleet",
  hint: "start the service: certautopilot serve",
};

function noVersion(policy: KeyPolicy | undefined): Problem[] {
  if (policy !== undefined) return [];
  const hint = "start the service: its first process activates the first version";
  return [{ code: "target", message: "no KEK version is active", hint }];
}

function failedRecords(open: RotationDoc | undefined): Problem[] {
  const [first] = open?.failed ?? [];
  if (open === undefined || first === undefined) return [];
  const failed = open.fields.reduce((total, field) => total + field.failed, 0);
  const count = failed <= 1 ? "1 record" : `${failed} records`;
  return [
    {
      code: "canary",
      message: `${count} cannot be rewrapped; the first: ${first.id} of ${first.field}: ${first.reason}`,
      hint: `repair what is listed, then run: certautopilot kek rotate --to-version=${open.to}`,
    },
  ];
}

/** Before a rotation every process is restarted with the version to come: that is as it should be, and a command is left to do. */
function otherDeclarations(facts: StatusFacts, policy: KeyPolicy | undefined, drift: Problem[]): Problem[] {
  const ids = new Set(drift.filter(({ code }) => code === "declares_other").map(({ process }) => process));
  const other = facts.roster.filter((member) => ids.has(member._id));
  return [...new Set(other.map((member) => member.current_version))].map((version) => {
    const alike = other.filter((member) => member.current_version === version);
    const [only] = alike;
    const who =
      alike.length === 1 && only !== undefined
        ? `${memberName(only)} declares`
        : `${alike.length} of ${facts.roster.length} processes declare`;
    return {
      code: "declares_other",
      message: `${who} KEK version ${version}, and the install is at ${policy?.write}`,
      hint: `to rotate: certautopilot kek verify --target=${version}; if not, declare ${policy?.write} again: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${policy?.write}`,
    };
  });
}

/** A process that was cut off could still store values there under the version that was left. */
function notFenced(newest: RotationDoc | undefined): Problem[] {
  const names = newest?.fence.unfenced ?? [];
  if (names.length === 0) return [];
  const some = names.slice(0, SHOWN).join(", ") + (names.length > SHOWN ? ` and ${names.length - SHOWN} more` : "");
  return [
    {
      code: "fence",
      message: `MongoDB does not reject envelopes of a version that was left in ${some}`,
      hint: "the user in the URI needs dbAdmin on the database; certautopilot kek verify tells more",
    },
  ];
}

function wasDue(doc: VersionDoc, { now, rotationPeriodMs }: StatusFacts): Problem[] {
  const due = dueAt(doc, rotationPeriodMs);
  if (due === null || due >= now) return [];
  return [
    {
      code: "target",
      message: `KEK version ${doc._id} was due to be rotated on ${due.toISOString().slice(0, 10)}`,
      hint: "give every process a key of a new version N, then run: certautopilot kek rotate --to-version=N",
    },
  ];
}

/** When policy says that a version is to be rotated, counted from its first use; null for all but the active one. */
export function dueAt(doc: VersionDoc, rotationPeriodMs: number): Date | null {
  if (doc.state !== "active") return null;
  const firstUsed = doc.first_activated_at ?? doc.activated_at ?? doc.staged_at;
  return new Date(firstUsed.getTime() + rotationPeriodMs);
}

function nobodyHolds(
  { _id, state, staged_at }: VersionDoc,
  facts: StatusFacts,
  open: RotationDoc | undefined,
): boolean {
  const { now, roster, times } = facts;
  if (state !== "staged" || open !== undefined || roster.length === 0) return false;
  if (now.getTime() - staged_at.getTime() <= times.leaseMs) return false;
  return !roster.some((member) => holds(member, _id));
}

/** Whether a process has opened a version's canary: it holds the key, or could load it. */
export function holds({ loaded, available }: Member, version: number): boolean {
  return loaded.includes(version) || (available ?? []).includes(version);
}

function stagedForNobody({ _id }: VersionDoc): Problem {
  return {
    code: "lacks_version",
    message: `KEK version ${_id} is staged, and no process holds its key`,
    hint: `give every process the key from your secret store (one that is generated again is another key), or forget the version: certautopilot kek remove --version=${_id}`,
  };
}

function brokenChain(fault: string | null): Problem {
  return {
    code: "audit_chain",
    message: `the audit chain is broken: ${fault}`,
    hint: "is CERTAUTOPILOT_AUDIT_SECRET the fleet's here? If it is, the log was changed: certautopilot audit verify",
  };
}
