import { createHash, randomBytes } from "node:crypto";
import { deserialize } from "bson";
import type { ProviderName } from "../config/config.ts";
import { readEnvelope } from "../envelope/envelope.ts";
import { TAG_BYTES } from "../envelope/gcm.ts";
import { TYPE_DOCUMENT } from "../envelope/raw_elements.ts";
import { fieldsIn, type RawField, toBinary, withValues } from "../envelope/raw_fields.ts";
import { idBsonOf } from "../envelope/raw_record.ts";

/** What was written between a first look at records and a second one. */

export interface RecordChanges {
  changed: number;
  added: number;
  removed: number;
}

/**
 * One collection's records as they were at the first look: a short hash of each, some fifty bytes of memory. A rewrap is no
 * change: it leaves a payload's nonce and tag as they are.
 */
export class CollectionSnapshot {
  readonly #paths: readonly string[];
  readonly #provider: ProviderName;
  readonly #seen = new Map<number, number>();
  /** With another one in each run, records that happened to share a hash share none when it is run again. */
  readonly #salt = randomBytes(16);

  constructor(paths: readonly string[], provider: ProviderName) {
    this.#paths = paths;
    this.#provider = provider;
  }

  add(raw: Uint8Array): void {
    this.#seen.set(this.#hash(idBsonOf(raw)), this.#hashOf(raw));
  }

  /** Compares, and forgets what was seen. @param second every record, once. */
  async compare(second: AsyncIterable<Uint8Array[]>, onBatch: (records: number) => void): Promise<RecordChanges> {
    const changes: RecordChanges = { changed: 0, added: 0, removed: 0 };
    for await (const records of second) {
      for (const raw of records) {
        const id = this.#hash(idBsonOf(raw));
        const before = this.#seen.get(id);
        this.#seen.delete(id);
        if (before === undefined) changes.added += 1;
        else if (before !== this.#hashOf(raw)) changes.changed += 1;
      }
      onBatch(records.length);
    }
    changes.removed = this.#seen.size;
    this.#seen.clear();
    return changes;
  }

  #hashOf(raw: Uint8Array): number {
    try {
      const payloads = fieldsIn(raw, this.#paths).filter(({ type }) => type === TYPE_DOCUMENT);
      return this.#hash(
        withValues(
          raw,
          payloads.map((field) => toBinary(field, this.#payloadOf(field))),
        ),
      );
    } catch {
      // It holds what is no envelope, and is told of as such: here it is its bytes.
      return this.#hash(raw);
    }
  }

  #payloadOf({ value }: RawField): Uint8Array {
    const { nonce, ciphertext } = readEnvelope(deserialize(value, { promoteValues: false }), this.#provider);
    return Buffer.concat([nonce, ciphertext.subarray(-TAG_BYTES)]);
  }

  /** 53 bits: two of a million records share one once in twenty thousand runs. */
  #hash(bytes: Uint8Array): number {
    const digest = createHash("sha256").update(this.#salt).update(bytes).digest();
    return digest.readUIntBE(0, 6) * 32 + (digest.readUInt8(6) >> 3);
  }
}
