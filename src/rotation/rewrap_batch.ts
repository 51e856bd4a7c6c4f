import { timingSafeEqual } from "node:crypto";
import { EJSON } from "bson";
import type { FieldName } from "../config/config.ts";
import { dekAad, type Place } from "../envelope/aad.ts";
import { exactId, idBsonOf, readWrap, splitDocuments } from "../envelope/raw_record.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Provider } from "../providers/provider.ts";
import { applyRewraps, type Rewrap } from "../store/records.ts";
import type { Store } from "../store/store.ts";

/** One batch of records: unwrap, wrap, prove the new wrap, one conditional update each. */

export interface BatchJob {
  field: FieldName;
  from: number;
  to: number;
  /** Raw BSON documents, one behind the other. */
  bytes: Uint8Array;
  limitMs: number;
}

export interface BatchResult {
  done: number;
  /** Changed by somebody else meanwhile: the next pass finds them again. */
  skipped: number;
  failed: { id: string; reason: string }[];
}

export async function rewrapBatch(
  store: Store,
  provider: Provider,
  installId: string,
  job: BatchJob,
): Promise<BatchResult> {
  const { field, from, to } = job;
  const failed: BatchResult["failed"] = [];
  const rewraps: Rewrap[] = [];
  for (const raw of splitDocuments(job.bytes)) {
    const idBson = idBsonOf(raw);
    try {
      const place: Place = { collection: field.collection, idBson, path: field.path };
      const { provider: tag, version, wrappedDek } = readWrap(raw, field.path);
      if (tag !== provider.name)
        throw new KekError("envelope_invalid", `its provider is "${tag}", not "${provider.name}"`, "");
      if (version !== from) continue;
      const newWrap = await rewrap(provider, wrappedDek, from, to, installId, place);
      rewraps.push({ id: exactId(idBson), oldWrap: wrappedDek, newWrap });
    } catch (thrown) {
      if (
        !(thrown instanceof KekError) ||
        !(thrown.code === "envelope_invalid" || thrown.code === "envelope_does_not_open")
      )
        throw thrown;
      failed.push({ id: idText(idBson), reason: messageOf(thrown) });
    }
  }
  if (rewraps.length === 0) return { done: 0, skipped: 0, failed };
  const outcome = await applyRewraps(store, field, from, to, rewraps, job.limitMs);
  for (const { index, reason } of outcome.rejected) {
    failed.push({ id: EJSON.stringify(rewraps[index]?.id, { relaxed: false }), reason });
  }
  return { done: outcome.done, skipped: rewraps.length - outcome.done - outcome.rejected.length, failed };
}

// ---------------------------------------------------------------------------------------------------------------------

/** A new wrap replaces the old one only after it was unwrapped and compared. */
async function rewrap(
  provider: Provider,
  wrapped: Uint8Array,
  from: number,
  to: number,
  installId: string,
  place: Place,
): Promise<Uint8Array> {
  const aad = dekAad(installId, provider.name, to, place);
  const dek = await provider.unwrap(wrapped, dekAad(installId, provider.name, from, place), from);
  try {
    const fresh = await provider.wrap(dek, aad, to);
    const back = await provider.unwrap(fresh, aad, to);
    const same = timingSafeEqual(back, dek);
    back.fill(0);
    if (!same)
      throw new KekError("unexpected", "a new wrap did not give the data key back", "nothing was written: report this");
    return fresh;
  } finally {
    dek.fill(0);
  }
}

function idText(idBson: Uint8Array): string {
  return EJSON.stringify(exactId(idBson), { relaxed: false });
}
