/** A problem that verify, preflight or status report: its code, the message, and what to do. */

export type ProblemCode =
  | "provider"
  | "silent"
  | "joining"
  | "lacks_version"
  | "wrong_key"
  | "declares_other"
  | "fleet_times"
  | "write_version"
  | "lock"
  | "target"
  | "rotation"
  | "own_key"
  | "key_trouble"
  | "behind"
  | "stale_envelope"
  | "backup"
  | "wraps"
  | "canary"
  | "fence"
  | "field"
  | "index"
  | "unregistered_field"
  | "audit_chain"
  | "shell_declares";

export interface Problem {
  code: ProblemCode;
  message: string;
  hint: string;
  /** The heartbeat's `_id`, where the problem is one process's. */
  process?: string;
}
