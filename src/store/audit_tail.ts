import { type AuditEntry, checkLink } from "../audit/chain.ts";
import { KekError } from "../errors/errors.ts";
import { auditEntries } from "./audit_log.ts";
import { auditEntryOf } from "./document_reader.ts";
import type { Store } from "./store.ts";

/** The audit log's last entries, and how they hang together. `verifyChain` walks the whole of it. */
export interface AuditTail {
  /** Newest first. */
  entries: AuditEntry[];
  chain: { state: "whole" | "broken" | "unchecked"; checked: number; fault: string | null };
}

/**
 * An entry that cannot be read is a fault of the chain: it does not keep anybody from seeing the rest.
 * @param secret empty where this process has none: then nothing is checked.
 */
export async function auditTail(store: Store, secret: string, limit: number): Promise<AuditTail> {
  // One more than is shown: the oldest shown must follow it.
  const found = await auditEntries(store)
    .find({}, { projection: { _id: 0 } })
    .sort({ seq: -1 })
    .limit(limit + 1)
    .toArray();
  const read = found.map(readable);
  const shown = read.slice(0, limit);
  const entries = shown.filter((entry) => typeof entry !== "string");
  for (const [index, entry] of shown.entries()) {
    const before = read[index + 1];
    const fault =
      typeof entry === "string"
        ? entry
        : secret === "" || typeof before === "string"
          ? undefined
          : said(secret, before, entry);
    if (fault !== undefined) return { entries, chain: { state: "broken", checked: index, fault } };
  }
  if (secret === "") return { entries, chain: { state: "unchecked", checked: 0, fault: null } };
  return { entries, chain: { state: "whole", checked: shown.length, fault: null } };
}

// ---------------------------------------------------------------------------------------------------------------------

/** @returns what is wrong with it, in words, when it cannot be read. */
function readable(doc: unknown): AuditEntry | string {
  try {
    return auditEntryOf(doc);
  } catch (thrown) {
    if (thrown instanceof KekError) return thrown.message;
    throw thrown;
  }
}

function said(secret: string, before: AuditEntry | undefined, entry: AuditEntry): string | undefined {
  const fault = checkLink(secret, before, entry);
  return fault === undefined ? undefined : `entry ${fault.seq}: ${fault.reason}`;
}
