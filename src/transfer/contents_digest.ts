import { createHmac } from "node:crypto";
import type { FieldName } from "../config/config.ts";
import { fieldId } from "../store/fields.ts";
import type { Contents, Header } from "./archive_format.ts";

/**
 * What an archive, or an install, holds: counts, and digests that do not depend on the order of records, so that a run that
 * was interrupted may go on anywhere. A digest is the sum modulo 2^256 of an HMAC-SHA-256 for each member.
 */
export class ContentsDigest {
  readonly #key: Uint8Array;
  readonly #collections = new Map<string, Sum>();
  readonly #fields: { field: FieldName; sum: Sum }[];

  constructor({ digest_key, collections, fields }: Pick<Header, "digest_key" | "collections" | "fields">) {
    this.#key = digest_key;
    for (const collection of collections) this.#collections.set(collection, new Sum());
    this.#fields = fields.map((field) => ({ field, sum: new Sum() }));
  }

  /**
   * @param plain the record with its secrets in plaintext.
   * @param secrets the plaintexts in it, and their paths.
   */
  add(
    collection: string,
    plain: Uint8Array,
    idBson: Uint8Array,
    secrets: readonly { path: string; plaintext: Uint8Array }[],
  ): void {
    this.#collections.get(collection)?.add(this.#mac("record", collection, plain));
    for (const { path, plaintext } of secrets) {
      const entry = this.#fields.find(({ field }) => field.collection === collection && field.path === path);
      entry?.sum.add(this.#mac("secret", collection, path, idBson, plaintext));
    }
  }

  get contents(): Contents {
    return {
      collections: [...this.#collections].map(([collection, { count, sum }]) => ({
        collection,
        records: count,
        digest: sum,
      })),
      fields: this.#fields.map(({ field, sum }) => ({ ...field, secrets: sum.count, digest: sum.sum })),
    };
  }

  /** Each part as uint32 big-endian length ‖ bytes, as in the AAD. */
  #mac(...parts: (string | Uint8Array)[]): Uint8Array {
    const mac = createHmac("sha256", this.#key);
    for (const part of parts) {
      const bytes = typeof part === "string" ? Buffer.from(part, "utf8") : part;
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      mac.update(length).update(bytes);
    }
    return mac.digest();
  }
}

/** In what two differ, in words; nothing when all counts and digests are the same. Pure. */
export function differences(found: Contents, expected: Contents): string[] {
  const collections = expected.collections.flatMap(({ collection, records, digest }) => {
    const other = found.collections.find((entry) => entry.collection === collection);
    return differs(collection, "records", { count: records, digest }, { count: other?.records ?? 0, ...other });
  });
  const fields = expected.fields.flatMap(({ secrets, digest, ...field }) => {
    const id = fieldId(field);
    const other = found.fields.find((entry) => fieldId(entry) === id);
    return differs(id, "secrets", { count: secrets, digest }, { count: other?.secrets ?? 0, ...other });
  });
  return [...collections, ...fields];
}

// ---------------------------------------------------------------------------------------------------------------------

class Sum {
  count = 0;
  readonly sum = new Uint8Array(32);

  /** Both as numbers of 256 bits, big-endian. */
  add(mac: Uint8Array): void {
    this.count += 1;
    let carry = 0;
    for (let at = 31; at >= 0; at -= 1) {
      carry += (this.sum[at] as number) + (mac[at] as number);
      this.sum[at] = carry & 0xff;
      carry >>= 8;
    }
  }
}

function differs(
  name: string,
  what: string,
  expected: { count: number; digest: Uint8Array },
  found: { count: number; digest?: Uint8Array },
): string[] {
  if (found.count !== expected.count) return [`${name}: ${found.count} ${what}, not ${expected.count}`];
  if (found.digest !== undefined && Buffer.compare(found.digest, expected.digest) === 0) return [];
  return [`${name}: the ${what} are not those of the archive`];
}
