import { KekError } from "../errors/errors.ts";

/** Whether only this record is wrong. Anything else says nothing about it: a key that is unavailable, a process that is ending. */
export function isRecordError(thrown: unknown): thrown is KekError {
  return thrown instanceof KekError && (thrown.code === "envelope_invalid" || thrown.code === "decryption_failed");
}

/** Its reason as it is listed: what somebody put into an envelope may be megabytes long, and a list of them has no room. */
export function reasonOf({ message }: KekError): string {
  const LONGEST = 1000;
  return message.length > LONGEST ? `${message.slice(0, LONGEST)}…` : message;
}
