import { type AuditEntry, checkLink } from "../audit/chain.ts";
import { auditEntries } from "./audit_log.ts";
import { auditEntryOf } from "./shapes.ts";
import type { Store } from "./store.ts";

/** The audit log's last entries, and how they hang together. `verifyChain` walks the whole of it. */
export interface AuditTail {
  /** Newest first. */
  entries: AuditEntry[];
  chain: { state: "whole" | "broken" | "unchecked"; checked: number; fault: string | null };
}

/** @param secret empty where this process has none: then nothing is checked. */
export async function auditTail(store: Store, secret: string, limit: number): Promise<AuditTail> {
  // One more than is shown: the oldest shown must follow it.
  const found = await auditEntries(store)
    .find({}, { projection: { _id: 0 } })
    .sort({ seq: -1 })
    .limit(limit + 1)
    .toArray();
  const entries = found.map(auditEntryOf);
  const shown = entries.slice(0, limit);
  if (secret === "") return { entries: shown, chain: { state: "unchecked", checked: 0, fault: null } };
  for (const [index, entry] of shown.entries()) {
    const fault = checkLink(secret, entries[index + 1], entry);
    if (fault !== undefined) {
      return {
        entries: shown,
        chain: { state: "broken", checked: index, fault: `entry ${fault.seq}: ${fault.reason}` },
      };
    }
  }
  return { entries: shown, chain: { state: "whole", checked: shown.length, fault: null } };
}
