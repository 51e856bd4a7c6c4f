import { KekError } from "../errors/errors.ts";

/**
 * What is found in place of an envelope of format 1. Plaintext was written past the library and the API: a backup has the same
 * plaintext, so it is written again, encrypted. A damaged envelope can be restored.
 */

/** What repairs a field that holds plaintext. */
export const WRITE_AGAIN = "write the value again through the library or the API, which encrypt it";
/** What repairs a field whose envelope was damaged. */
export const RESTORE = "restore the field from a backup, or write the value again through the library or the API";

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
