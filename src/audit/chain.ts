import { createHmac, timingSafeEqual } from "node:crypto";

/** The audit log's hash chain, docs/format.md: pure rules. */

export const AUDIT_EVENTS = [
  "install.locked",
  "version.staged",
  "version.activated",
  "version.retired",
  "version.destroyed",
  "version.forgotten",
  "version.backup_verified",
  "rotation.started",
  "rotation.phase",
  "rotation.resumed",
  "rotation.cancelled",
  "rotation.completed",
  "rotation.reverted",
  "rotation.refused",
  "rotation.progress",
  "process.evicted",
  "record.failed",
  "fence.set",
  "fence.lifted",
  "fence.mended",
  "field.added",
  "field.removed",
  "secrets.export_started",
  "secrets.exported",
  "secrets.import_started",
  "secrets.imported",
] as const;

export type AuditEvent = (typeof AUDIT_EVENTS)[number];

export type AuditData = {
  [key: string]: string | number | boolean | null | AuditData | (string | number | AuditData)[];
};

export interface AuditEntry {
  seq: number;
  /** Server time. */
  at: Date;
  actor: string;
  event: AuditEvent;
  data: AuditData;
  /** The mac of the entry before, or 64 zeros. */
  prev: string;
  /** HMAC-SHA-256(AUDIT_SECRET, canonical JSON of the rest), hex. */
  mac: string;
}

export const GENESIS = "0".repeat(64);

/** The entry that follows `last`. */
export function link(
  secret: string,
  last: Pick<AuditEntry, "seq" | "mac"> | undefined,
  entry: Pick<AuditEntry, "at" | "actor" | "event" | "data">,
): AuditEntry {
  const rest = { seq: (last?.seq ?? 0) + 1, ...entry, prev: last?.mac ?? GENESIS };
  return { ...rest, mac: macOf(secret, rest) };
}

/** Whether an entry's mac was made with this secret. */
export function isMadeWith(secret: string, entry: AuditEntry): boolean {
  return sameMac(macOf(secret, entry), entry.mac);
}

export interface ChainFault {
  seq: number;
  reason: string;
}

/** What is wrong with `entry` as the successor of `last`, if anything. */
export function checkLink(secret: string, last: AuditEntry | undefined, entry: AuditEntry): ChainFault | undefined {
  const expected = (last?.seq ?? 0) + 1;
  if (entry.seq !== expected) return { seq: entry.seq, reason: `entry ${expected} is missing before it` };
  if (entry.prev !== (last?.mac ?? GENESIS))
    return { seq: entry.seq, reason: "it does not follow the entry before it" };
  if (isMadeWith(secret, entry)) return undefined;
  if (secret !== "" && isMadeWith("", entry)) {
    return { seq: entry.seq, reason: "it was written by a process without AUDIT_SECRET" };
  }
  return {
    seq: entry.seq,
    reason: "its mac does not match: it was changed, or AUDIT_SECRET is not the one it was written with",
  };
}

/** JSON with sorted keys and no white space; dates in RFC 3339 with milliseconds. */
export function canonicalJson(value: unknown): string {
  // A time outside of JavaScript's range, which nobody writes, is null, and the mac does not match.
  if (value instanceof Date) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
    return `{${members.join(",")}}`;
  }
  return JSON.stringify(value);
}

// ---------------------------------------------------------------------------------------------------------------------

function macOf(secret: string, entry: Omit<AuditEntry, "mac"> & { mac?: string }): string {
  const { seq, at, actor, event, data, prev } = entry;
  return createHmac("sha256", secret).update(canonicalJson({ seq, at, actor, event, data, prev })).digest("hex");
}

function sameMac(a: string, b: unknown): boolean {
  return typeof b === "string" && a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
}
