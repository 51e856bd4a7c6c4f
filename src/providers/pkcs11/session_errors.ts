import { KekError } from "../../errors/errors.ts";

/** Errors of work that no session did. */

export function closedError(): KekError {
  return new KekError("closed", "the sessions of the HSM are closed", "this process is ending");
}

export function hangingError(tokenLabel: string): KekError {
  return new KekError(
    "hsm_unavailable",
    `token "${tokenLabel}" hangs: no session of this process answers`,
    "see that the HSM, its network and its daemon are up; this program retries until they are",
  );
}

/** @param cause what the token answered. */
export function noSessionError(tokenLabel: string, cause: string): KekError {
  return new KekError(
    "hsm_unavailable",
    `token "${tokenLabel}" has no session left for this process (${cause})`,
    "close other users of the token, or let each use fewer: --hsm-sessions, encryption.pkcs11.sessions",
  );
}

/** The work continues; this caller stops waiting. */
export function slowError(tokenLabel: string, limitMs: number): KekError {
  return new KekError(
    "hsm_unavailable",
    `token "${tokenLabel}" has not finished within ${limitMs / 1000} s; the call continues`,
    "see whether the HSM or its network is slow; this program looks again at the next heartbeat",
  );
}
