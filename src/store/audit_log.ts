import {
  type AuditData,
  type AuditEntry,
  type AuditEvent,
  type ChainFault,
  checkLink,
  isMadeWith,
  link,
} from "../audit/chain.ts";
import { openSinks, type SinkOptions } from "../audit/open_sinks.ts";
import type { AuditSink } from "../audit/sink.ts";
import type { Config } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import { signal } from "./change_signals.ts";
import { auditEntryOf } from "./document_reader.ts";
import { type Session, type Store, serverNow, transact } from "./store.ts";
import { uniqueIndex } from "./unique_index.ts";

/** `audit_log`: appended in the transaction that makes the change; an append that fails stops the change. */

export interface Auditor {
  secret: string;
  actor: string;
  /** Told of every event after it was committed, for a SIEM. */
  sinks: readonly AuditSink[];
}

const NAME = "audit_log";

export async function ensureAuditLog(store: Store): Promise<void> {
  await uniqueIndex({
    collection: auditEntries(store),
    name: "audit_log",
    keys: { seq: 1 },
    options: {},
    broken: "two entries have the same seq",
  });
}

/** Appends inside a transaction. Two at once conflict on `seq` and one of them runs again. */
export async function appendAudit(
  store: Store,
  { auditor, session, event, data }: { auditor: Auditor; session: Session; event: AuditEvent; data: AuditData },
): Promise<AuditEntry> {
  const at = await serverNow(store, session);
  const last = await checkSecret(store, auditor, session);
  const entry = link(auditor.secret, last, { at, actor: auditor.actor, event, data });
  await auditEntries(store).insertOne({ ...entry }, { session });
  if (import.meta.crashPoints) crashPoint("audit.appended");
  return entry;
}

/**
 * Whether this auditor could append: asked before anything is done that no transaction undoes.
 * @returns the last entry. @throws KekError `audit_secret`.
 */
export async function checkSecret(store: Store, auditor: Auditor, session?: Session): Promise<AuditEntry | undefined> {
  const [last] = await auditEntries(store)
    .find({}, session === undefined ? {} : { session })
    .sort({ seq: -1 })
    .limit(1)
    .toArray();
  if (last !== undefined) auditEntryOf(last);
  if (last !== undefined && !isMadeWith(auditor.secret, last)) throw otherSecret(auditor.secret);
  return last;
}

type AuditedWork<T> = (session: Session) => Promise<{ event: AuditEvent; data: AuditData; result: T }[] | undefined>;

/** A change and its audit event, both or neither. `work` returns undefined when there was nothing to change. */
export async function audited<T>(store: Store, auditor: Auditor, work: AuditedWork<T>): Promise<T[] | undefined> {
  const results = await auditedUnheard(store, auditor, work);
  // Every change that processes follow passes here. A signal that is lost is made good by the next beat.
  if (results !== undefined) await signal(store).catch(() => undefined);
  return results;
}

/** The same, of a change that no process has to follow at once: the fleet is not woken for it. */
export async function auditedUnheard<T>(
  store: Store,
  auditor: Auditor,
  work: AuditedWork<T>,
): Promise<T[] | undefined> {
  const outcome = await transact(store, async (session) => {
    const changes = await work(session);
    if (changes === undefined) {
      // Nothing of what `work` had begun may stay.
      await session.abortTransaction();
      return undefined;
    }
    const written: AuditEntry[] = [];
    for (const change of changes)
      written.push(await appendAudit(store, { auditor, session, event: change.event, data: change.data }));
    return { written, results: changes.map((change) => change.result) };
  });
  if (outcome === undefined) return undefined;
  if (import.meta.crashPoints) crashPoint("audit.committed");
  for (const sink of auditor.sinks) sink.write(outcome.written);
  if (import.meta.crashPoints) crashPoint("audit.mirrored");
  return outcome.results;
}

/**
 * @param actor who acts, in events and leases.
 * @throws KekError `config_invalid` when the audit file cannot be written, before anything is changed.
 */
export function openAuditor({ audit }: Pick<Config, "audit">, actor: string, options: SinkOptions): Auditor {
  return { secret: audit.secret, actor, sinks: openSinks(audit, options) };
}

/** Once nothing is audited any more. */
export async function closeAuditor({ sinks }: Auditor): Promise<void> {
  await Promise.all(sinks.map((sink) => sink.close()));
}

/** An event that goes with no change of its own. */
export async function note(store: Store, auditor: Auditor, event: AuditEvent, data: AuditData): Promise<void> {
  await auditedUnheard(store, auditor, async () => [{ event, data, result: undefined }]);
}

export interface ChainReport {
  entries: number;
  lastMac: string | undefined;
  faults: ChainFault[];
}

export const FAULTS_LISTED = 100;

/** Walks the whole chain, oldest first. */
export async function verifyChain(store: Store, secret: string): Promise<ChainReport> {
  const report: ChainReport = { entries: 0, lastMac: undefined, faults: [] };
  let last: AuditEntry | undefined;
  for await (const entry of auditEntries(store).find({}).sort({ seq: 1 })) {
    const unreadable = unreadableEntry(entry, report.entries + 1);
    const fault = unreadable ?? checkLink(secret, last, entry);
    if (fault !== undefined && report.faults.length < FAULTS_LISTED) report.faults.push(fault);
    report.entries += 1;
    report.lastMac = entry.mac;
    if (unreadable === undefined) last = entry;
  }
  return report;
}

export interface AuditFilter {
  event?: string;
  actor?: string;
  since?: Date;
  limit: number;
}

/** The newest entries that fit, oldest first. */
export async function listAudit(store: Store, filter: AuditFilter): Promise<AuditEntry[]> {
  const query = {
    ...(filter.event === undefined ? {} : { event: filter.event as AuditEvent }),
    ...(filter.actor === undefined ? {} : { actor: filter.actor }),
    ...(filter.since === undefined ? {} : { at: { $gte: filter.since } }),
  };
  const found = await auditEntries(store)
    .find(query, { projection: { _id: 0 } })
    .sort({ seq: -1 })
    .limit(filter.limit)
    .toArray();
  return found.map(auditEntryOf).reverse();
}

/** For the other files about the audit log in this folder. */
export function auditEntries(store: Store) {
  return store.db.collection<AuditEntry>(NAME);
}

// ---------------------------------------------------------------------------------------------------------------------

/** An entry whose mac cannot even be computed is a fault of the chain like any other. */
function unreadableEntry(entry: unknown, seq: number): ChainFault | undefined {
  try {
    auditEntryOf(entry);
    return undefined;
  } catch (thrown) {
    return { seq, reason: messageOf(thrown) };
  }
}

/** One entry under another secret would break the chain for good: it is not written, and neither is its change. */
function otherSecret(secret: string): KekError {
  const what = secret === "" ? "CERTAUTOPILOT_AUDIT_SECRET is not set" : "CERTAUTOPILOT_AUDIT_SECRET is another one";
  return new KekError(
    "audit_secret",
    `${what}: the audit log's last entry was not written with this one, so nothing was changed`,
    "set CERTAUTOPILOT_AUDIT_SECRET to the fleet's; if it is right, the log was tampered with: certautopilot audit verify",
  );
}
