import { timingSafeEqual } from "node:crypto";
import type { FieldName } from "../config/config.ts";
import { dekAadOf } from "../envelope/aad.ts";
import { exactId, idBsonOf, idText, readWrap, splitDocuments } from "../envelope/raw_record.ts";
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
  const fromAad = dekAadOf(installId, provider.name, from, field.collection, field.path);
  const toAad = dekAadOf(installId, provider.name, to, field.collection, field.path);
  for (const raw of splitDocuments(job.bytes)) {
    const idBson = idBsonOf(raw);
    try {
      const oldWrap = wrapToMove(raw, field.path, provider.name, from);
      if (oldWrap === undefined) continue;
      const newWrap = await rewrap(
        provider,
        oldWrap,
        { version: from, aad: fromAad(idBson) },
        { version: to, aad: toAad(idBson) },
      );
      rewraps.push({ id: exactId(idBson), oldWrap, newWrap });
    } catch (thrown) {
      if (!isTheRecordsFault(thrown)) throw thrown;
      failed.push({ id: idText(exactId(idBson)), reason: messageOf(thrown) });
    }
  }
  if (rewraps.length === 0) return { done: 0, skipped: 0, failed };
  const outcome = await applyRewraps(store, field, from, to, rewraps, job.limitMs);
  for (const { index, reason } of outcome.rejected) {
    failed.push({ id: idText(rewraps[index]?.id), reason });
  }
  return { done: outcome.done, skipped: rewraps.length - outcome.done - outcome.rejected.length, failed };
}

// ---------------------------------------------------------------------------------------------------------------------

interface Under {
  version: number;
  aad: Uint8Array;
}

/** @returns undefined when the record is not at the old version. @throws KekError `envelope_invalid`. */
function wrapToMove(raw: Uint8Array, path: string, provider: string, from: number): Uint8Array | undefined {
  const wrap = readWrap(raw, path);
  if (wrap.provider !== provider) {
    const hint = "an envelope of another provider has no place in this install";
    throw new KekError("envelope_invalid", `its provider is "${wrap.provider}", not "${provider}"`, hint);
  }
  return wrap.version === from ? wrap.wrappedDek : undefined;
}

/** A new wrap replaces the old one only after it was unwrapped and compared. */
async function rewrap(provider: Provider, wrapped: Uint8Array, from: Under, to: Under): Promise<Uint8Array> {
  const dek = await provider.unwrap(wrapped, from.aad, from.version);
  try {
    const fresh = await provider.wrap(dek, to.aad, to.version);
    const back = await provider.unwrap(fresh, to.aad, to.version);
    const same = timingSafeEqual(back, dek);
    back.fill(0);
    if (same) return fresh;
    throw new KekError("unexpected", "a new wrap did not give the data key back", "nothing was written: report this");
  } finally {
    dek.fill(0);
  }
}

/** Only this record is wrong; anything else stops the lane. */
function isTheRecordsFault(thrown: unknown): boolean {
  return thrown instanceof KekError && (thrown.code === "envelope_invalid" || thrown.code === "envelope_does_not_open");
}
