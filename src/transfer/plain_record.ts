import { binaryOf, fieldsIn, isVoid, type RawField } from "../envelope/raw_fields.ts";
import { idBsonOf } from "../envelope/raw_record.ts";
import { KekError } from "../errors/errors.ts";

/** What is secret in a record as an archive holds it: BinData of subtype 0 at a field's path; or nothing is there. Pure. */

export interface PlainSecret {
  path: string;
  field: RawField;
  /** A view of the record. */
  plaintext: Uint8Array;
}

/** @throws KekError `envelope_invalid` for what no export writes. */
export function secretsOf(
  record: Uint8Array,
  paths: readonly string[],
): { idBson: Uint8Array; secrets: PlainSecret[] } {
  const secrets = fieldsIn(record, paths).flatMap((field) => {
    if (isVoid(field)) return [];
    const plaintext = binaryOf(field);
    // It would be stored as it is: in plaintext.
    if (plaintext === undefined) throw noSecret(field.path);
    return [{ path: field.path, field, plaintext }];
  });
  return { idBson: idBsonOf(record), secrets };
}

// ---------------------------------------------------------------------------------------------------------------------

function noSecret(path: string): KekError {
  return new KekError(
    "envelope_invalid",
    `what the archive holds at ${path} is no secret: BinData of subtype 0 belongs there`,
    "this is no archive of `certautopilot export`: take the one that it wrote",
  );
}
