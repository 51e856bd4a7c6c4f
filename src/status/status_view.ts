import type {
  Acked,
  FailedRecord,
  FieldCount,
  InstallDoc,
  Phase,
  RotationState,
  VersionState,
} from "../protocol/documents.ts";
import type { NextStep } from "../protocol/next_steps.ts";
import type { Problem } from "../protocol/problem.ts";
import type { VersionCount } from "../protocol/version_count.ts";

/**
 * The facts about an install, as one view: `kek status`, the KEK Versions page and /metrics all show this, so that they cannot
 * disagree. Plain JSON: times in RFC 3339, UTC, by MongoDB's clock; durations in milliseconds.
 */
export interface StatusView {
  /** When it was read. */
  at: string;
  health: Health;
  install: { provider: InstallDoc["provider"]; install_id: string; locked_at: string; locked_by: string };
  /** Zero in the steady state. */
  phase: 0 | Phase;
  write_version: number | null;
  versions: VersionView[];
  version_counts: VersionCount[];
  /** When the records were counted: a long count is not repeated for each look. */
  version_counts_at: string;
  /** The open one. */
  rotation: RotationView | null;
  /** Those that have ended, the newest first. */
  history: RotationView[];
  processes: ProcessView[];
  /** Processes whose declaration or write version is not what the state says, or differs from one another. */
  drift: Problem[];
  /** Versions whose wraps come to an end, or have. */
  wraps: Problem[];
  audit: AuditView;
}

/** What a person wants to know first. */
export interface Health {
  /** ok: nothing is to be done. in_progress: a rotation runs. action_due: something must be done soon. problem: now. */
  level: "ok" | "in_progress" | "action_due" | "problem";
  /** One sentence. */
  headline: string;
  /** What it rests on, the most urgent first; each with the next step. */
  findings: Finding[];
}

export interface Finding {
  message: string;
  hint: string;
  /** Whether somebody must act now, and not just soon. */
  urgent: boolean;
}

export interface VersionView {
  version: number;
  state: VersionState;
  /** Who has opened its canary, of those that serve. */
  canary: { verified_by: number; of: number; wrong_key: string[] };
  records: number;
  wraps: number;
  /** Of the 2^32 that one key may make. */
  wraps_percent: number;
  /** In its present state since then. */
  since: string;
  /** Since it was first known. */
  age_ms: number;
  /** When policy says that it is to be rotated, counted from when it was first active; for the active one only. */
  due_at: string | null;
  overdue: boolean;
  backup_verified_at: string | null;
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
  /** From its start to its end, or until now. */
  duration_ms: number;
  /** When each phase began. */
  phase_times: { [phase: string]: string };
  coordinator: string | null;
  /** Whether a coordinator is at work, so that it continues automatically. */
  led: boolean;
  /** How long ago the lease of a running rotation ran out: its coordinator is dead or cut off. */
  lease_ran_out_ms: number | null;
  fields: FieldCount[];
  done: number;
  remaining: number;
  failed_count: number;
  failed: FailedRecord[];
  /** Records a second, lately; null when nothing moves. */
  rate: number | null;
  eta_ms: number | null;
  /** How it went: records a second over time, evenly thinned. */
  pace: { at: string; done: number; rate: number }[];
  /** Members that have acknowledged the phase, and those that have not, by name. */
  acknowledged: string[];
  awaited: string[];
  /** Versions that MongoDB rejects. */
  fenced: number[];
  /** What can be done with it now: nothing with one that has ended, or settles. */
  next_steps: NextStep[];
  /** Collections that the fence could not be set on. */
  unfenced: string[];
  /** The unfinished rotation whose reverse rotation this one is. */
  reverses: number | null;
  /** Present when it only repairs stale envelopes. */
  repairs?: true;
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
  acked: Acked | null;
  /** Whether it follows the running rotation's phase, which otherwise waits for it; null while none runs. */
  acknowledged: boolean | null;
  started_at: string;
  last_beat_ms: number;
  silent: boolean;
  /** What is wrong with this one: silence, missing keys, drift. */
  problems: Pick<Problem, "message" | "hint">[];
}

export interface AuditView {
  /** The newest first. */
  events: { seq: number; at: string; actor: string; event: string; data: unknown }[];
  /** How the events shown hang together; `audit verify` walks the whole chain. `unchecked`: no AUDIT_SECRET here. */
  chain: { state: "whole" | "broken" | "unchecked"; checked: number; fault: string | null };
}
