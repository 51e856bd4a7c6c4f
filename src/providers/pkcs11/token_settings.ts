import type { PinSource } from "./pin.ts";

/** How a thread reaches its token: plain data, handed from thread to thread. */
export interface TokenSettings {
  modulePath: string;
  tokenLabel: string;
  pin: PinSource;
  /** Where SoftHSM's `token.object` is copied to before each login (`softhsm_backup_dir`). */
  softHsmBackup?: string | undefined;
  /** The token makes the IVs of GCM itself, and takes none (`use_gcm_iv_from_hsm`). */
  ownIvs: boolean;
  limits: CallLimits;
  /** Shared by all threads of the process that use the module. */
  moduleLock: SharedArrayBuffer;
  /** Shared by all threads of the process that use this token with this PIN. */
  token: SharedArrayBuffer;
  /** Shared by all sessions of one provider. */
  counters: SharedArrayBuffer;
}

/** How long one call into the module may take before nobody waits for it any more. */
export interface CallLimits {
  /** C_Initialize, C_OpenSession, C_Login. */
  startMs: number;
  /** Every other call. */
  workMs: number;
}
