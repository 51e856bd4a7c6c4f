import { Buffer } from "node:buffer";
import { type AuditEntry, type AuditEvent, canonicalJson } from "./chain.ts";

/** An audit event as a syslog message: RFC 5424, and its frame on a stream: RFC 6587, 3.4.1. Pure. */

export interface Originator {
  host: string;
  pid: number;
}

/** "Log audit" of RFC 5424, table 1. */
const FACILITY = 13;
/** Table 2. An event that is not named is a notice: normal, but significant. */
const NOTICE = 5;
const SEVERITY: { [event in AuditEvent]?: number } = {
  "process.evicted": 4,
  "record.failed": 4,
  "rotation.refused": 4,
  "rotation.cancelled": 4,
  "fence.mended": 4,
  "rotation.progress": 6,
};

/**
 * The whole entry is the message, as JSON in ASCII, so it needs no byte order mark and a collector can check its mac.
 * The event is the MSGID, and `seq` the `sequenceId` of the registered element `meta`, by which a collector sees gaps.
 */
export function syslogMessage(entry: AuditEntry, { host, pid }: Originator): Buffer {
  const priority = FACILITY * 8 + (SEVERITY[entry.event] ?? NOTICE);
  const meta = `[meta sequenceId="${sequenceId(entry.seq)}"]`;
  const header = `<${priority}>1 ${entry.at.toISOString()} ${word(host, 255)} certautopilot ${pid} ${word(entry.event, 32)}`;
  return Buffer.from(`${header} ${meta} ${ascii(canonicalJson(entry))}`, "ascii");
}

/** Octet counting: a message may hold anything. */
export function framed(message: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${message.length} `, "ascii"), message]);
}

// ---------------------------------------------------------------------------------------------------------------------

/** Section 7.3.1: after 2147483647 comes 1. */
function sequenceId(seq: number): number {
  return ((seq - 1) % 2_147_483_647) + 1;
}

/** PRINTUSASCII, at most so many; "-" for none. */
function word(text: string, limit: number): string {
  const printable = text.replaceAll(/[^\x21-\x7e]/g, "?").slice(0, limit);
  return printable === "" ? "-" : printable;
}

/** The same JSON, with every other character by its UTF-16 code. */
function ascii(json: string): string {
  return json.replaceAll(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
