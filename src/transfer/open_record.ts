import type { Buffer } from "node:buffer";
import { deserialize } from "bson";
import type { Place } from "../envelope/aad.ts";
import { TYPE_DOCUMENT } from "../envelope/raw_elements.ts";
import { fieldsIn, isVoid, type RawField, toBinary, withValues } from "../envelope/raw_fields.ts";
import { exactId, idBsonOf, idTextOf } from "../envelope/raw_record.ts";
import { reasonOf } from "../envelope/record_fault.ts";
import { KekError } from "../errors/errors.ts";

/** A record with its secrets in plaintext, as an archive holds it. Whoever has one zeroes it when it is done with. */
export interface OpenedRecord {
  plain: Uint8Array;
  idBson: Uint8Array;
  secrets: { path: string; plaintext: Uint8Array }[];
}

/** Opens one envelope. @param stored as it was read, its values not promoted. */
export type Open = (stored: unknown, place: Place) => Promise<Buffer>;

/**
 * @param paths of the collection's fields that hold envelopes.
 * @throws KekError `envelope_invalid`, `decryption_failed` when it is this record's fault; anything else is not.
 */
export async function openRecord(
  raw: Uint8Array,
  collection: string,
  paths: readonly string[],
  open: Open,
): Promise<OpenedRecord> {
  const idBson = idBsonOf(raw);
  // What MongoDB cannot be asked for byte for byte could not be sealed again either.
  exactId(idBson);
  const fields = fieldsIn(raw, paths).filter((field) => !isVoid(field));
  const opened = await Promise.allSettled(
    fields.map(async (field) => await open(envelopeIn(field), { collection, idBson, path: field.path })),
  );
  const plaintexts = opened.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  const failed = opened.find((each) => each.status === "rejected");
  if (failed !== undefined) {
    for (const plaintext of plaintexts) plaintext.fill(0);
    throw failed.reason;
  }
  const secrets = fields.map(({ path }, index) => ({ path, plaintext: plaintexts[index] as Buffer }));
  const values = fields.map((field, index) => toBinary(field, plaintexts[index] as Buffer));
  const plain = withValues(raw, values);
  for (const { value } of values) value.fill(0);
  return { plain, idBson, secrets };
}

export function wipe({ plain, secrets }: OpenedRecord): void {
  plain.fill(0);
  for (const { plaintext } of secrets) plaintext.fill(0);
}

/** A record that cannot be carried. */
export interface BadRecord {
  collection: string;
  /** Its _id as canonical extended JSON. */
  id: string;
  reason: string;
}

export function badRecord(collection: string, raw: Uint8Array, fault: KekError): BadRecord {
  return { collection, id: idTextOf(idBsonOf(raw)), reason: reasonOf(fault) };
}

// ---------------------------------------------------------------------------------------------------------------------

function envelopeIn({ path, type, value }: RawField): unknown {
  if (type === TYPE_DOCUMENT) return deserialize(value, { promoteValues: false });
  throw new KekError(
    "envelope_invalid",
    `what is at ${path} is no envelope: it was never encrypted`,
    "encrypt it, or take the field out of the record",
  );
}
