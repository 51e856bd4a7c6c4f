import { Buffer } from "node:buffer";
import { Binary, deserialize, serialize } from "bson";
import * as v from "valibot";
import type { FieldName, ProviderName } from "../config/config.ts";
import { decodeText, elements, nameOf, readInt32, TYPE_DOCUMENT, TYPE_STRING } from "../envelope/raw_elements.ts";
import { KekError } from "../errors/errors.ts";
import { fieldFault } from "../store/field_names.ts";

/**
 * An archive, format 1: BSON documents one behind the other, a header, the records, a trailer, in an age file. Described for
 * other programs in docs/change-provider.md. Pure.
 */

export const FORMAT = 1;
const KIND = "certautopilot secrets";
/** MongoDB's limit for a record, and what an archive puts around it; the header of many fields has room in it too. */
export const MAX_FRAME_BYTES = 16 * 1024 * 1024 + 64 * 1024;

export interface Header {
  archive_id: string;
  install_id: string;
  provider: ProviderName;
  exported_at: Date;
  exported_by: string;
  /** 32 random bytes: digests under a key that is nowhere else say nothing about the secrets. */
  digest_key: Uint8Array;
  fields: FieldName[];
  collections: string[];
}

export interface Contents {
  collections: { collection: string; records: number; digest: Uint8Array }[];
  fields: (FieldName & { secrets: number; digest: Uint8Array })[];
}

export interface Trailer extends Contents {
  /** Records that were left out because they do not open. */
  left_out: number;
}

export function encodeHeader({ digest_key, ...header }: Header): Uint8Array {
  return serialize({ archive: KIND, format: FORMAT, ...header, digest_key: new Binary(digest_key, 0) });
}

/** Lays out what stands around the records of one collection once. @returns from a record to its document in the archive. */
export function recordEncoder(collection: string): (record: Uint8Array) => Uint8Array {
  const head = Buffer.from(serialize({ collection })).subarray(4, -1);
  const name = Buffer.from([TYPE_DOCUMENT, ...Buffer.from("record\0")]);
  return (record) => {
    const out = Buffer.alloc(4 + head.length + name.length + record.length + 1);
    out.writeInt32LE(out.length, 0);
    out.set(head, 4);
    out.set(name, 4 + head.length);
    out.set(record, 4 + head.length + name.length);
    return out;
  };
}

export function encodeTrailer({ collections, fields, left_out }: Trailer): Uint8Array {
  return serialize({
    end: true,
    collections: collections.map((entry) => ({ ...entry, digest: new Binary(entry.digest, 0) })),
    fields: fields.map((entry) => ({ ...entry, digest: new Binary(entry.digest, 0) })),
    left_out,
  });
}

/** @throws KekError `archive_unreadable` for what is no archive, or one of a later format. */
export function decodeHeader(frame: Uint8Array, name: string): Header {
  const found = decoded(frame, name) as { archive?: unknown; format?: unknown };
  if (found.archive !== KIND) {
    throw new KekError("archive_unreadable", `${name} holds no secrets of an install`, "name the file of an export");
  }
  if (found.format !== FORMAT) {
    throw new KekError(
      "archive_unreadable",
      `${name} is of another format than ${FORMAT}: a later release wrote it`,
      "import it with a release that is as new as the one that exported it",
    );
  }
  const { digest_key, ...header } = read(HEADER, found, name, "its header");
  return { ...header, digest_key: digest_key.buffer };
}

/** A record with its collection, or the trailer. @throws KekError `archive_damaged`. */
export function decodeFrame(
  frame: Uint8Array,
  name: string,
): { collection: string; record: Uint8Array } | { trailer: Trailer } {
  const [first, second, ...more] = elements(frame, 0);
  if (first !== undefined && nameOf(frame, first) === "end") {
    const { collections, fields, left_out } = read(TRAILER, decoded(frame, name), name, "its trailer");
    const plain = <T extends { digest: Binary }>(entry: T) => ({ ...entry, digest: entry.digest.buffer });
    return { trailer: { collections: collections.map(plain), fields: fields.map(plain), left_out } };
  }
  const isRecord =
    first?.[0] === TYPE_STRING &&
    nameOf(frame, first) === "collection" &&
    second?.[0] === TYPE_DOCUMENT &&
    nameOf(frame, second) === "record" &&
    more.length === 0;
  if (!isRecord) throw strange(name, "what stands there is no record");
  const collection = decodeText(frame, first[3] + 4, readInt32(frame, first[3]) - 1);
  return { collection, record: frame.subarray(second[3], second[3] + second[4]) };
}

// ---------------------------------------------------------------------------------------------------------------------

const text = v.string();
const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const bytes = (length: number) =>
  v.custom<Binary>((value) => value instanceof Binary && value.sub_type === 0 && value.length() === length);
const digest = bytes(32);
const field = v.pipe(
  v.object({ collection: text, path: text }),
  v.check((name) => fieldFault(name) === undefined),
);

const HEADER = v.pipe(
  v.object({
    archive_id: v.pipe(text, v.uuid()),
    install_id: v.pipe(text, v.uuid()),
    provider: v.picklist(["env", "pkcs11"]),
    exported_at: v.date(),
    exported_by: text,
    digest_key: digest,
    fields: v.array(field),
    collections: v.array(text),
  }),
  // Whoever knows a recipient can seal to it: no archive may reach the install's own collections.
  v.check(({ fields, collections }) =>
    collections.every((name) => fields.some(({ collection }) => collection === name)),
  ),
);

const TRAILER = v.object({
  collections: v.array(v.object({ collection: text, records: count, digest })),
  fields: v.array(v.object({ collection: text, path: text, secrets: count, digest })),
  left_out: count,
});

function decoded(frame: Uint8Array, name: string): Record<string, unknown> {
  try {
    return deserialize(frame);
  } catch {
    throw strange(name, "what stands there is no BSON");
  }
}

function read<T extends v.GenericSchema>(schema: T, found: unknown, name: string, what: string): v.InferOutput<T> {
  const result = v.safeParse(schema, found);
  if (result.success) return result.output;
  const path = v.getDotPath(result.issues[0]) ?? "its collections";
  throw strange(name, `${what} is not of format ${FORMAT}, at ${path}`);
}

/** It opened, so nobody changed it on the way: it was not written as the format has it. */
function strange(name: string, what: string): KekError {
  return new KekError(
    "archive_damaged",
    `${name} cannot be read: ${what}`,
    "export again: the old install is as it was",
  );
}
