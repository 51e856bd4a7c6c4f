import type { AuditEntry } from "./chain.ts";

/** Where audit events are told besides the collection, for a SIEM. The collection is the truth: a sink only repeats it. */
export interface AuditSink {
  /** Called after the events were committed. */
  write(entries: readonly AuditEntry[]): void;
  /** Sends what is still on its way, for a moment. Never throws. */
  close(): Promise<void>;
}
