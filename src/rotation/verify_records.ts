import { deserialize } from "bson";
import { dekAad } from "../envelope/aad.ts";
import { readEnvelope } from "../envelope/envelope.ts";
import { openField } from "../envelope/field_cipher.ts";
import { exactId, idBsonOf, idText, splitDocuments } from "../envelope/raw_record.ts";
import { KekError } from "../errors/errors.ts";
import { loadProved } from "../fleet/keystore.ts";
import { takeCensus } from "../store/census.ts";
import type { FailedRecord, FieldDoc } from "../store/documents.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { envelopesOf } from "../store/records.ts";
import { readVersions } from "../store/versions.ts";
import type { Context } from "./context.ts";
import { isTheRecordsFault } from "./record_fault.ts";

/**
 * `kek verify --records`: opens every envelope, DEK and ciphertext.
 * @throws KekError `key_missing`, `key_mismatch` when this command lacks the key of a version that records are at.
 */

export interface RecordsReport {
  records: number;
  opened: number;
  failed: number;
  /** The first of them. */
  bad: FailedRecord[];
}

const LISTED = 1000;
const BATCH = 200;

export async function verifyRecords(context: Context, tell: (line: string) => void): Promise<RecordsReport> {
  const { store } = context;
  await loadWhatIsUsed(context);
  const report: RecordsReport = { records: 0, opened: 0, failed: 0, bad: [] };
  for (const field of await readFields(store)) {
    for await (const { bytes } of envelopesOf(store, field, BATCH)) {
      const openOne = async (raw: Uint8Array) => {
        const idBson = idBsonOf(raw);
        report.records += 1;
        try {
          await open(context, raw, idBson, field);
          report.opened += 1;
        } catch (thrown) {
          if (!isTheRecordsFault(thrown)) throw thrown;
          report.failed += 1;
          const id = idText(exactId(idBson));
          if (report.bad.length < LISTED) report.bad.push({ field: fieldId(field), id, reason: thrown.message });
        }
      };
      await Promise.all([...splitDocuments(bytes)].map(openOne));
      tell(`${fieldId(field)}: ${report.records} read, ${report.failed} do not open`);
    }
  }
  return report;
}

// ---------------------------------------------------------------------------------------------------------------------

/** A rotation at work may have moved the record to a version that was not in use when this began. */
async function open(
  context: Context,
  raw: Uint8Array,
  idBson: Uint8Array,
  { collection, path }: FieldDoc,
): Promise<void> {
  const { provider, install } = context;
  const envelope = readEnvelope(at(deserialize(raw, { promoteValues: false }), path), provider.name);
  const place = { collection, idBson, path };
  const aad = dekAad(install.install_id, provider.name, envelope.version, place);
  const unwrap = async () => await provider.unwrap(envelope.wrappedDek, aad, envelope.version);
  const dek = await unwrap().catch(async (thrown) => {
    if (!(thrown instanceof KekError) || thrown.code !== "version_not_loaded") throw thrown;
    const doc = (await readVersions(context.store)).find((version) => version._id === envelope.version);
    if (doc === undefined || doc.state === "destroyed") {
      throw new KekError("envelope_invalid", `no key of KEK version ${envelope.version} is left`, thrown.hint);
    }
    await loadProved(provider, install.install_id, doc);
    return await unwrap();
  });
  try {
    openField(dek, envelope, install.install_id, place).fill(0);
  } finally {
    dek.fill(0);
  }
}

/** Every version under which there are envelopes must be at hand, else nothing was learnt about the records. */
async function loadWhatIsUsed({ store, provider, install }: Context): Promise<void> {
  const census = await takeCensus(store, await readFields(store));
  for (const doc of await readVersions(store)) {
    const used = census.some((row) => row.version === String(doc._id));
    if (used && doc.state !== "destroyed") await loadProved(provider, install.install_id, doc);
  }
}

function at(document: Record<string, unknown>, path: string): unknown {
  let value: unknown = document;
  for (const name of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}
