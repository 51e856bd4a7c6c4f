import type { Problem } from "../fleet/readiness.ts";
import { isOpen, stanceOf } from "../fleet/stance.ts";
import { wrapProblems, wrapsPercent, wrapWarnings, writable } from "../fleet/wrap_limit.ts";
import { type CensusRow, countVersions } from "../store/census.ts";
import type {
  FailedRecord,
  FieldCount,
  InstallDoc,
  Phase,
  RotationDoc,
  RotationState,
  VersionDoc,
  VersionState,
} from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { type Member, memberName, readRoster } from "../store/heartbeats.ts";
import { rotationHistory } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { type Store, serverNow } from "../store/store.ts";
import { driftProblems } from "./verify.ts";

/** The facts about an install as one view, for `kek status`, and for whoever shows them elsewhere. */

export interface StatusView {
  install: { provider: string; install_id: string; locked_at: string; locked_by: string };
  phase: number;
  write_version: number | null;
  versions: {
    version: number;
    state: VersionState;
    records: number;
    wraps: number;
    /** Of the 2^32 that one key may make. */
    wraps_percent: number;
    since: string;
    backup_verified_at: string | null;
  }[];
  census: CensusRow[];
  rotation: RotationView | null;
  history: RotationView[];
  processes: ProcessView[];
  drift: Problem[];
  /** Versions whose wraps come to an end, or have. */
  wraps: Problem[];
}

export interface RotationView {
  rotation: number;
  from: number;
  to: number;
  phase: Phase;
  state: RotationState;
  epoch: number;
  started_at: string;
  started_by: string;
  ended_at: string | null;
  coordinator: string | null;
  /** How long ago the lease of a running rotation ran out, in milliseconds: its coordinator is dead or cut off. */
  lease_ran_out_ms: number | null;
  fields: FieldCount[];
  failed: FailedRecord[];
  awaited: string[];
  /** Present when it only brings strays back. */
  mends?: true;
}

export interface ProcessView {
  id: string;
  name: string;
  role: string;
  host: string;
  pid: number;
  provider: string;
  loaded: number[];
  current_version: number | null;
  write_version: number | null;
  acked: { rotation: number | null; epoch: number; phase: number } | null;
  last_beat_ms: number;
  silent: boolean;
}

const HISTORY = 10;

export async function statusView(store: Store, install: InstallDoc, leaseMs: number): Promise<StatusView> {
  const [state, roster, fields, history, now] = await Promise.all([
    readState(store),
    readRoster(store),
    readFields(store),
    rotationHistory(store, HISTORY),
    serverNow(store),
  ]);
  const census = await countVersions(store, fields);
  const stance = stanceOf(state.versions, state.rotation);
  const open = state.rotation !== undefined && isOpen(state.rotation) ? state.rotation : undefined;
  const written = writable(state.versions, open);
  const view = (doc: NonNullable<typeof open>): RotationView => ({
    rotation: doc._id,
    from: doc.from,
    to: doc.to,
    phase: doc.phase,
    state: doc.state,
    epoch: doc.epoch,
    started_at: doc.started_at.toISOString(),
    started_by: doc.started_by,
    ended_at: doc.ended_at?.toISOString() ?? null,
    coordinator: doc.lease?.owner ?? null,
    lease_ran_out_ms: ranOut(doc, now),
    ...(doc.mends === true ? { mends: true as const } : {}),
    fields: doc.fields,
    failed: doc.failed,
    awaited: doc === open ? roster.filter((member) => member.acked?.epoch !== doc.epoch).map(memberName) : [],
  });
  return {
    install: {
      provider: install.provider,
      install_id: install.install_id,
      locked_at: install.locked_at.toISOString(),
      locked_by: install.locked_by,
    },
    phase: stance?.phase ?? 0,
    write_version: stance?.write ?? null,
    versions: state.versions.map((doc) => ({
      version: doc._id,
      state: doc.state,
      records: census.filter((row) => row.version === String(doc._id)).reduce((sum, row) => sum + row.count, 0),
      wraps: Number(doc.wraps),
      wraps_percent: wrapsPercent(doc),
      since: sinceOf(doc).toISOString(),
      backup_verified_at: doc.backup_verified_at?.toISOString() ?? null,
    })),
    census,
    rotation: open === undefined ? null : view(open),
    history: history.filter((doc) => doc._id !== open?._id).map(view),
    processes: roster.map((member: Member) => ({
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
      last_beat_ms: Math.round(member.age_ms),
      silent: member.age_ms > (member.fleet?.lease_ms ?? leaseMs),
    })),
    drift: driftProblems(roster, state),
    wraps: [...wrapProblems(written), ...wrapWarnings(written)],
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Since when it is in the state it is in. A version that is used again has been retired before, and a retired one active. */
function sinceOf({ state, staged_at, activated_at, retired_at, destroyed_at }: VersionDoc): Date {
  const times = { staged: staged_at, active: activated_at, retired: retired_at, destroyed: destroyed_at };
  return times[state] ?? staged_at;
}

function ranOut({ state, lease }: RotationDoc, now: Date): number | null {
  if (state !== "running" || lease === null || lease.owner === null) return null;
  const late = now.getTime() - lease.expires_at.getTime();
  return late > 0 ? late : null;
}
