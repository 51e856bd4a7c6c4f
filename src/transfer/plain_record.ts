import { binaryOf, fieldsIn, type RawField } from "../envelope/raw_fields.ts";
import { idBsonOf } from "../envelope/raw_record.ts";

/** What is secret in a record as an archive holds it: BinData of subtype 0 at a field's path, and nothing else. Pure. */

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
    const plaintext = binaryOf(field);
    return plaintext === undefined ? [] : [{ path: field.path, field, plaintext }];
  });
  return { idBson: idBsonOf(record), secrets };
}
