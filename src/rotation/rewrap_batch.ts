import type { FieldName } from "../config/config.ts";
import { dekAadOf } from "../envelope/aad.ts";
import { type ProjectedWrap, projectedWrapReader } from "../envelope/projected_wrap.ts";
import { idBsonOf, idTextOf, splitDocuments } from "../envelope/raw_record.ts";
import { isRecordError, reasonOf } from "../envelope/record_fault.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { type ErrorCode, KekError, messageOf } from "../errors/errors.ts";
import type { Provider } from "../providers/provider.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import type { Rewrap } from "../store/rewrap_statement.ts";
import { applyRewraps } from "../store/rewrap_writes.ts";
import type { LeaseEnd } from "../store/rotation_lease.ts";
import type { Store } from "../store/store.ts";

/** One batch of records: rewrap, one conditional update each. */

export interface BatchJob {
  kind: "rewrap";
  field: FieldName;
  from: number;
  to: number;
  /** Raw BSON documents, one behind the other. */
  bytes: Uint8Array;
  limitMs: number;
}

/** What became of a batch, rewrapped or opened. */
export interface BatchResult {
  done: number;
  /** Changed by somebody else meanwhile, or sent after the lease was over: the next pass finds them again. */
  skipped: number;
  failed: { id: string; reason: string }[];
  /** Why the rest of the batch was not tried. What is counted above was done all the same. */
  fault: BatchFault | undefined;
}

/** What was thrown, as it goes from thread to thread. */
export interface BatchFault {
  message: string;
  code: ErrorCode;
}

export async function rewrapBatch(
  store: Store,
  {
    provider,
    installId,
    job,
    lease,
  }: { provider: Provider; installId: string; job: BatchJob; lease: Pick<LeaseEnd, "date"> },
): Promise<BatchResult> {
  const { field, from, to } = job;
  const failed: BatchResult["failed"] = [];
  const rewraps: Rewrap[] = [];
  const read = projectedWrapReader(field.path, provider.name, from);
  const fromAad = dekAadOf(installId, provider.name, from, field.collection, field.path);
  const toAad = dekAadOf(installId, provider.name, to, field.collection, field.path);
  const rewrapOne = async (raw: Uint8Array) => {
    try {
      const { version, idBson, wrappedDek: oldWrap } = ofProvider(read(raw), provider.name);
      if (version !== from) throw otherVersion(version, from);
      const under = (version: number, aad: typeof fromAad) => ({ version, aad: aad(idBson) });
      const newWrap = await provider.rewrap(oldWrap, under(from, fromAad), under(to, toAad));
      rewraps.push({ idBson, oldWrap, newWrap });
    } catch (thrown) {
      if (!isRecordError(thrown)) throw thrown;
      failed.push({ id: idTextOf(idBsonOf(raw)), reason: reasonOf(thrown) });
    }
  };
  // All at once: a provider that waits for an HSM keeps many operations in flight. What was wrapped is written, whatever
  // became of the rest.
  const ended = await Promise.allSettled([...splitDocuments(job.bytes)].map(rewrapOne));
  const broken = ended.find((each) => each.status === "rejected");
  const fault = broken && batchFault(broken.reason);
  if (rewraps.length === 0) return { done: 0, skipped: 0, failed, fault };
  if (import.meta.crashPoints) crashPoint("batch.wrapped");
  const outcome = await applyRewraps(store, { field, from, to, rewraps, limitMs: job.limitMs, lease });
  if (import.meta.crashPoints) crashPoint("batch.written");
  for (const { index, reason } of outcome.rejected) {
    const { idBson } = rewraps[index] as Rewrap;
    failed.push({ id: idTextOf(idBson), reason });
  }
  return { done: outcome.done, skipped: rewraps.length - outcome.done - outcome.rejected.length, failed, fault };
}

export function batchFault(thrown: unknown): BatchFault {
  const code = isTransient(thrown) ? "mongodb_unavailable" : thrown instanceof KekError ? thrown.code : "unexpected";
  return { message: messageOf(thrown), code };
}

// ---------------------------------------------------------------------------------------------------------------------

/** What is left out without a word would be found by each pass again, for ever. */
function otherVersion(version: number, from: number): KekError {
  const hint = "restore this field from a backup";
  return new KekError("envelope_invalid", `its kek_version is ${version}, and MongoDB found it under ${from}`, hint);
}

/** @throws KekError `envelope_invalid` when the record is another provider's. */
function ofProvider(wrap: ProjectedWrap, provider: string): ProjectedWrap {
  if (wrap.provider === provider) return wrap;
  const hint = "an envelope of another provider has no place in this install";
  throw new KekError("envelope_invalid", `its provider is "${wrap.provider}", not "${provider}"`, hint);
}
