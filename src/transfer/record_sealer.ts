import { serialize } from "bson";
import { toDocument, withValues } from "../envelope/raw_fields.ts";
import { exactId, idBsonOf, idTextOf } from "../envelope/raw_record.ts";
import { KekError } from "../errors/errors.ts";
import type { Membership } from "../fleet/join.ts";
import { inOrder } from "../library/batch.ts";
import { insertMissing, MAX_RECORD_BYTES, recordsById } from "../store/whole_records.ts";
import { openRecord, wipe } from "./open_record.ts";
import { secretsOf } from "./plain_record.ts";

/** Brings records of an archive into one collection, each secret sealed by this process of the fleet. */
export class RecordSealer {
  readonly #member: Membership;
  readonly #collection: string;
  readonly #paths: readonly string[];

  constructor(member: Membership, collection: string, paths: readonly string[]) {
    this.#member = member;
    this.#collection = collection;
    this.#paths = paths;
  }

  /**
   * @param plain records with their secrets in plaintext.
   * @returns how many were there before. @throws KekError `refused` when one is there and is another, `write_rejected`.
   */
  async bring(plain: readonly Uint8Array[]): Promise<number> {
    const { encryption, store } = this.#member;
    let there = 0;
    let missing = plain;
    // Who is there was brought by a run that was interrupted, by another at this moment, or by a try that the fence cut short.
    while (missing.length > 0) {
      const { same, lacking } = await this.#compare(missing);
      there += same;
      if (lacking.length === 0) break;
      const overtaken = await encryption.write(async () => {
        const records = await inOrder(lacking, async (record) => await this.#seal(record));
        return await insertMissing(store, this.#collection, records);
      });
      missing = overtaken.map((index) => lacking[index] as Uint8Array);
    }
    return there;
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** Which are there, opened and compared byte for byte, and which are not. */
  async #compare(plain: readonly Uint8Array[]): Promise<{ same: number; lacking: Uint8Array[] }> {
    const byId = new Map(plain.map((record) => [keyOf(record), record]));
    const ids = plain.map((record) => exactId(idBsonOf(record)));
    let same = 0;
    for (const raw of await recordsById(this.#member.store, this.#collection, ids)) {
      const expected = byId.get(keyOf(raw));
      const opened = await openRecord(raw, this.#collection, this.#paths, (stored, place) =>
        this.#member.encryption.decrypt(stored, {
          collection: place.collection,
          id: exactId(place.idBson),
          field: place.path,
        }),
      );
      const isSame = expected !== undefined && Buffer.compare(opened.plain, expected) === 0;
      wipe(opened);
      if (!isSame) throw this.#another(raw);
      byId.delete(keyOf(raw));
      same += 1;
    }
    return { same, lacking: [...byId.values()] };
  }

  async #seal(record: Uint8Array): Promise<Uint8Array> {
    const { idBson, secrets } = secretsOf(record, this.#paths);
    const id = exactId(idBson);
    const values = await Promise.all(
      secrets.map(async ({ field, path, plaintext }) =>
        toDocument(
          field,
          serialize(
            await this.#member.encryption.encrypt(plaintext, { collection: this.#collection, id, field: path }),
          ),
        ),
      ),
    );
    const out = withValues(record, values);
    if (out.length > MAX_RECORD_BYTES) throw this.#tooLarge(idBson);
    return out;
  }

  #another(raw: Uint8Array): KekError {
    return new KekError(
      "refused",
      `the record ${idTextOf(idBsonOf(raw))} of ${this.#collection} is there already, and is not the archive's`,
      "something writes to this install: stop it, drop this database, install again and import again",
    );
  }

  #tooLarge(idBson: Uint8Array): KekError {
    return new KekError(
      "write_rejected",
      `the record ${idTextOf(idBson)} of ${this.#collection} would be longer than MongoDB's 16 MiB: this provider's name is longer`,
      "make it shorter in the old install, and export again",
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function keyOf(record: Uint8Array): string {
  return Buffer.from(idBsonOf(record)).toString("latin1");
}
