import { KekError } from "../errors/errors.ts";
import { RESTORE, WRITE_AGAIN } from "../protocol/stale_envelopes.ts";

/**
 * What is found in place of an envelope of format 1. Plaintext was written past the library and the API: a backup has the same
 * plaintext, so it is written again, encrypted. A damaged envelope can be restored.
 */

/** @returns KekError `envelope_invalid` for a value that was never encrypted. */
export function plaintextFound(reason: string): KekError {
  return new KekError("envelope_invalid", `plaintext, not an envelope of format 1: ${reason}`, WRITE_AGAIN);
}

/** @returns KekError `envelope_invalid` for an envelope that was damaged, or what else is none. */
export function damagedEnvelope(reason: string): KekError {
  return new KekError("envelope_invalid", `not an envelope of format 1: ${reason}`, RESTORE);
}

/** Whether a listed reason says that plaintext was found. */
export function saysPlaintext(reason: string): boolean {
  return reason.startsWith("plaintext, ");
}
