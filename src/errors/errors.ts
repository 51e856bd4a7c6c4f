/**
 * Every error that a person may see. One line that names the thing, one hint with the next step, one exit code.
 * Nothing here ever holds a key, a PIN or the password of a URI: messages are built from names, never from values.
 */

/** Process exit codes, docs/commands.md. */
export const EXIT = {
  done: 0,
  unexpected: 1,
  usage: 2,
  refused: 3,
  lock: 4,
  cancelled: 5,
  incomplete: 6,
  fleet: 7,
  hsm: 8,
  mongodb: 9,
} as const;

export type ExitName = keyof typeof EXIT;

/** What went wrong, for programs: stable names, independent of the wording of messages. */
export type ErrorCode =
  | "usage"
  | "config_invalid"
  | "secret_unreadable"
  | "secrets_file_exposed"
  | "key_missing"
  | "key_invalid"
  | "key_mismatch"
  | "version_not_loaded"
  | "version_unknown"
  | "provider_mismatch"
  | "provider_unavailable"
  | "hsm_unavailable"
  | "hsm_module"
  | "hsm_pin"
  | "hsm_token"
  | "hsm_unfit"
  | "not_installed"
  | "document_invalid"
  | "unsupported_format"
  | "envelope_invalid"
  | "decryption_failed"
  | "plaintext_too_large"
  | "wrap_limit_reached"
  | "fenced"
  | "closed"
  | "write_rejected"
  | "refused"
  | "nothing_to_cancel"
  | "cancelled"
  | "incomplete"
  | "index_unusable"
  | "lease_lost"
  | "not_acknowledged"
  | "archive_unreadable"
  | "archive_damaged"
  | "archive_unwritable"
  | "audit_broken"
  | "audit_secret"
  | "mongodb_unavailable"
  | "mongodb_refused"
  | "mongodb_no_replica_set"
  | "unexpected";

const EXIT_OF: Record<ErrorCode, ExitName> = {
  usage: "usage",
  config_invalid: "usage",
  secret_unreadable: "usage",
  secrets_file_exposed: "usage",
  key_missing: "usage",
  key_invalid: "usage",
  key_mismatch: "refused",
  version_not_loaded: "refused",
  version_unknown: "refused",
  provider_mismatch: "lock",
  provider_unavailable: "usage",
  hsm_unavailable: "hsm",
  hsm_module: "hsm",
  hsm_pin: "hsm",
  hsm_token: "hsm",
  hsm_unfit: "hsm",
  not_installed: "refused",
  document_invalid: "refused",
  unsupported_format: "refused",
  envelope_invalid: "incomplete",
  decryption_failed: "incomplete",
  plaintext_too_large: "usage",
  wrap_limit_reached: "incomplete",
  fenced: "refused",
  closed: "unexpected",
  write_rejected: "refused",
  refused: "refused",
  nothing_to_cancel: "refused",
  cancelled: "cancelled",
  incomplete: "incomplete",
  index_unusable: "refused",
  lease_lost: "fleet",
  not_acknowledged: "fleet",
  archive_unreadable: "usage",
  archive_damaged: "incomplete",
  archive_unwritable: "usage",
  audit_broken: "refused",
  audit_secret: "usage",
  mongodb_unavailable: "mongodb",
  mongodb_refused: "mongodb",
  mongodb_no_replica_set: "mongodb",
  unexpected: "unexpected",
};

export class KekError extends Error {
  override readonly name = "KekError";
  readonly code: ErrorCode;
  /** What to do next, in the imperative. */
  readonly hint: string;

  constructor(code: ErrorCode, message: string, hint: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.hint = hint;
  }

  get exit(): ExitName {
    return EXIT_OF[this.code];
  }
}

/** The text of whatever was thrown; never throws itself. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** RFC 3339 in UTC, whole seconds: the form that the two contract messages use. */
export function rfc3339(date: Date): string {
  return date.toISOString().replace(/\.\d{3}Z$/, "Z");
}
