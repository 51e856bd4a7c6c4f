import type { FieldName } from "../config/config.ts";
import { fieldId } from "../store/fields.ts";
import type { Contents } from "./archive_format.ts";

/** What an export and an import share in what they tell. */

export interface TransferProgress {
  /** What is being done, in a word or two. */
  doing: string;
  /** Records. */
  done: number;
  of: number;
}

/** Told while it runs. Who shows it is decided by the command. */
export interface TransferReporter {
  note(message: string): void;
  warn(message: string): void;
  progress(progress: TransferProgress): void;
}

/** Counts and digests for the audit log. The digests are keyed, and say nothing to who has not opened the archive. */
export function figuresOf({ collections, fields }: Contents) {
  return {
    records: collections.reduce((sum, { records }) => sum + records, 0),
    secrets: fields.reduce((sum, { secrets }) => sum + secrets, 0),
    collections: collections.map(({ digest, ...entry }) => ({ ...entry, digest: hex(digest) })),
    fields: fields.map(({ secrets, digest, ...field }) => ({ field: fieldId(field), secrets, digest: hex(digest) })),
  };
}

/** The paths of a collection's fields. */
export function pathsOf({ fields }: { fields: readonly FieldName[] }, collection: string): string[] {
  return fields.filter((field) => field.collection === collection).map(({ path }) => path);
}

// ---------------------------------------------------------------------------------------------------------------------

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
