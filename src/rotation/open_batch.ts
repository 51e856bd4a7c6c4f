import { deserialize } from "bson";
import type { FieldName } from "../config/config.ts";
import { dekAad } from "../envelope/aad.ts";
import { readEnvelope } from "../envelope/envelope.ts";
import { openField } from "../envelope/field_cipher.ts";
import { idBsonOf, idTextOf, splitDocuments } from "../envelope/raw_record.ts";
import { isRecordError, reasonOf } from "../envelope/record_fault.ts";
import { OnDemandKeys } from "../fleet/on_demand_keys.ts";
import type { Provider } from "../providers/provider.ts";
import type { Store } from "../store/store.ts";
import type { BatchResult } from "./rewrap_batch.ts";

/** One batch of whole envelopes: the wrap and the payload of each are opened, and what was in them is zeroed. */

export interface OpenJob {
  kind: "open";
  field: FieldName;
  /** Raw BSON documents, one behind the other. */
  bytes: Uint8Array;
}

/** @throws KekError when the key of a version that a record is at cannot be had: that says nothing about the record. */
export async function openBatch(
  store: Store,
  provider: Provider,
  installId: string,
  { field, bytes }: OpenJob,
): Promise<BatchResult> {
  const { collection, path } = field;
  const failed: BatchResult["failed"] = [];
  const keys = new OnDemandKeys(store, provider, installId);
  let done = 0;
  const openOne = async (raw: Uint8Array) => {
    const idBson = idBsonOf(raw);
    try {
      const envelope = readEnvelope(at(deserialize(raw, { promoteValues: false }), path), provider.name);
      const place = { collection, idBson, path };
      const aad = dekAad(installId, provider.name, envelope.version, place);
      const dek = await keys.unwrap(envelope.wrappedDek, aad, envelope.version);
      try {
        openField(dek, envelope, installId, place).fill(0);
      } finally {
        dek.fill(0);
      }
      done += 1;
    } catch (thrown) {
      if (!isRecordError(thrown)) throw thrown;
      failed.push({ id: idTextOf(idBson), reason: reasonOf(thrown) });
    }
  };
  const ended = await Promise.allSettled([...splitDocuments(bytes)].map(openOne));
  const broken = ended.find((each) => each.status === "rejected");
  if (broken !== undefined) throw broken.reason;
  return { done, skipped: 0, failed, fault: undefined };
}

// ---------------------------------------------------------------------------------------------------------------------

function at(document: Record<string, unknown>, path: string): unknown {
  let value: unknown = document;
  for (const name of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}
