import { KekError } from "../errors/errors.ts";

/** Whether only this record is wrong. Anything else says nothing about it: a key that is away, a process that is ending. */
export function isTheRecordsFault(thrown: unknown): thrown is KekError {
  return thrown instanceof KekError && (thrown.code === "envelope_invalid" || thrown.code === "envelope_does_not_open");
}
