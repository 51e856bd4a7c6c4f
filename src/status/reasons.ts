import { leaseMsOf, type Problem, seconds } from "../fleet/readiness.ts";
import type { Stance } from "../fleet/stance.ts";
import { wrapProblems, wrapWarnings, writable } from "../fleet/wrap_limit.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { type Member, memberName } from "../store/heartbeats.ts";
import { isLed, unledRotation } from "./health.ts";
import type { Reason, RotationView, StatusView, VersionView } from "./status_view.ts";
import { strayProblems } from "./strays.ts";
import type { Facts } from "./view.ts";

/** What somebody must see to, and how soon: pure. */

export interface Grounds {
  facts: Facts;
  stance: Stance | undefined;
  /** The open rotation. */
  open: RotationDoc | undefined;
  /** Of the fleet. */
  problems: Problem[];
  drift: Problem[];
  view: Pick<StatusView, "rotation" | "versions">;
}

type Found = Pick<Problem, "code" | "message" | "hint">;

/** The most urgent first; more than a few of one kind are counted. */
export function reasonsOf(grounds: Grounds): { reasons: Reason[]; urgent: number; due: number } {
  const { facts, stance, open, problems, drift, view } = grounds;
  const { state, roster, census, audit, now } = facts;
  const written = writable(state.versions, open);
  const unled = unledRotation(open, now);
  const joining = roster.filter((member) => isJoining(member, facts));
  const urgentOf = (problem: Problem) => isUrgent(problem, joining);
  const led = open !== undefined && isLed(open, now);
  const [from, to] = [open?.from ?? stance?.write, open?.to ?? stance?.write];
  const urgent: Found[] = [
    ...noVersion(stance),
    ...(roster.length === 0 && stance !== undefined ? [NO_PROCESS] : []),
    ...wrapProblems(written),
    ...(open?.state === "cancelled" ? [] : unled),
    ...failedRecords(view.rotation),
    ...problems
      .filter(urgentOf)
      .map((problem) => (led && problem.code === "silent" ? evictedSoon(problem, facts) : problem)),
    ...drift.filter(({ code }) => code === "write_version"),
    ...(from === undefined || to === undefined ? [] : strayProblems(census.rows, state.versions, from, to)),
    ...(audit.chain.state === "broken" ? [brokenChain(audit.chain.fault)] : []),
  ];
  const due: Found[] = [
    ...(open?.state === "cancelled" ? unled : []),
    ...problems.filter((problem) => !urgentOf(problem)),
    ...otherDeclarations(grounds),
    ...notFenced(state.rotation),
    ...wrapWarnings(written),
    ...view.versions.filter(({ overdue, version }) => overdue && version !== open?.from).map(wasDue),
    ...state.versions.filter((doc) => nobodyHolds(doc, grounds)).map(stagedForNobody),
  ];
  return {
    reasons: [
      ...gathered(urgent).map((found) => ({ ...found, urgent: true })),
      ...gathered(due).map((found) => ({ ...found, urgent: false })),
    ],
    urgent: urgent.length,
    due: due.length,
  };
}

// ---------------------------------------------------------------------------------------------------------------------

const SHOWN = 3;

/** A fleet of hundreds may have one and the same trouble hundreds of times. */
function gathered(found: Found[]): Pick<Reason, "message" | "hint">[] {
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
function isJoining(member: Member, { now, times }: Facts): boolean {
  const leaseMs = leaseMsOf(member, times);
  return member.acked === null && member.age_ms <= leaseMs && now.getTime() - member.started_at.getTime() <= leaseMs;
}

/** Other fleet times stop the next rotation, and nothing now. */
function isUrgent({ code, process }: Problem, joining: Member[]): boolean {
  if (code === "fleet_times") return false;
  const onItsWay = code === "joining" || code === "lacks_version";
  return !(onItsWay && joining.some((member) => member._id === process));
}

function evictedSoon(problem: Problem, { times }: Facts): Problem {
  const hint = `start it again; the rotation waits for it until it has been silent for ${seconds(times.evictionMs)}, and then goes on without it`;
  return { ...problem, hint };
}

const NO_PROCESS: Found = {
  code: "silent",
  message: "no process is in the fleet",
  hint: "start the service: certautopilot serve",
};

function noVersion(stance: Stance | undefined): Found[] {
  if (stance !== undefined) return [];
  const hint = "start the service: its first process activates the first version";
  return [{ code: "target", message: "no KEK version is active", hint }];
}

function failedRecords(rotation: RotationView | null): Found[] {
  const [first] = rotation?.failed ?? [];
  if (rotation === null || first === undefined) return [];
  const count = rotation.failed_count <= 1 ? "1 record" : `${rotation.failed_count} records`;
  return [
    {
      code: "canary",
      message: `${count} cannot be rewrapped; the first: ${first.id} of ${first.field}: ${first.reason}`,
      hint: `mend what is listed, then run: certautopilot kek rotate --to-version=${rotation.to}`,
    },
  ];
}

/** Before a rotation every process is restarted with the version to come: that is as it should be, and a command is left to do. */
function otherDeclarations({ facts, stance, drift }: Grounds): Found[] {
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
      message: `${who} KEK version ${version}, and the install is at ${stance?.write}`,
      hint: `to rotate: certautopilot kek verify --target=${version}; if not, declare ${stance?.write} again: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${stance?.write}`,
    };
  });
}

/** A process that was cut off could still store values there under the version that was left. */
function notFenced(newest: RotationDoc | undefined): Found[] {
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

function wasDue({ version, due_at }: VersionView): Found {
  return {
    code: "target",
    message: `KEK version ${version} was due to be rotated on ${due_at?.slice(0, 10)}`,
    hint: "give every process a key of a new version N, then run: certautopilot kek rotate --to-version=N",
  };
}

function nobodyHolds({ _id, state, staged_at }: VersionDoc, { facts, open, view }: Grounds): boolean {
  const { now, roster, times } = facts;
  if (state !== "staged" || open !== undefined || roster.length === 0) return false;
  if (now.getTime() - staged_at.getTime() <= times.leaseMs) return false;
  return view.versions.some(({ version, canary }) => version === _id && canary.proved_by === 0);
}

function stagedForNobody({ _id }: VersionDoc): Found {
  return {
    code: "lacks_version",
    message: `KEK version ${_id} is staged, and no process holds its key`,
    hint: `give every process the key from your secret store (one that is generated again is another key), or forget the version: certautopilot kek remove --version=${_id}`,
  };
}

function brokenChain(fault: string | null): Found {
  return {
    code: "canary",
    message: `the audit chain is broken: ${fault}`,
    hint: "is CERTAUTOPILOT_AUDIT_SECRET the fleet's here? If it is, the log was changed: certautopilot audit verify",
  };
}
