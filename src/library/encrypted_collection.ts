import { ObjectId } from "bson";
import { KekError } from "../errors/errors.ts";
import { isFenceRejection } from "../fleet/write_fence_setter.ts";
import { inOrder } from "./batch.ts";
import type { CollectionOptions, EncryptedCollection, FoundRecords, Updated } from "./collection.ts";
import { type DriverCollection, type DriverOptions, inTransaction } from "./driver_types.ts";
import type { FieldEncryption } from "./field_encryption.ts";
import type { FieldChanges, IdOf, NewRecord, OneRecord, SecretKind, StoredRecord } from "./field_types.ts";
import {
  envelopesIn,
  type FoundSecret,
  opened,
  refuseSearched,
  type SecretField,
  secretsIn,
  secretsInUpdate,
  usage,
  withReplaced,
} from "./secret_fields.ts";
import { canBeReadOtherwise, isOneForm, sameId, storedIdOf } from "./stored_id.ts";

/** A collection of the driver's, with envelopes where its documents have secrets. */

/** @throws KekError `usage` when the collection is in another database than the install. */
export function encryptedCollection<T extends object>(
  encryption: Pick<FieldEncryption, "encryptMany" | "decryptMany" | "write">,
  database: string,
  collection: DriverCollection,
  options: CollectionOptions<T>,
): EncryptedCollection<T> {
  if (collection.dbName !== database) {
    throw new KekError(
      "usage",
      `the collection ${collection.collectionName} is in the database ${collection.dbName}, and the install in ${database}`,
      "keep encrypted records in the install's database: a rotation looks for envelopes nowhere else",
    );
  }
  const entries = Object.entries(options.fields as Record<string, SecretKind>);
  const fields = entries.map(([path, kind]) => ({ path, kind }));
  return new SealedCollection<T>(encryption, collection, fields, options.newId ?? (() => new ObjectId() as IdOf<T>));
}

// ---------------------------------------------------------------------------------------------------------------------

/** A document whose `_id` is known. */
type StoredDocument = { _id: unknown } & { [key: string]: unknown };

class SealedCollection<T> implements EncryptedCollection<T> {
  readonly #encryption: Pick<FieldEncryption, "encryptMany" | "decryptMany" | "write">;
  readonly #collection: DriverCollection;
  readonly #fields: SecretField[];
  readonly #newId: () => IdOf<T>;

  constructor(
    encryption: Pick<FieldEncryption, "encryptMany" | "decryptMany" | "write">,
    collection: DriverCollection,
    fields: SecretField[],
    newId: () => IdOf<T>,
  ) {
    this.#encryption = encryption;
    this.#collection = collection;
    this.#fields = fields;
    this.#newId = newId;
  }

  async insertOne(document: NewRecord<T>, options: DriverOptions = {}): Promise<{ insertedId: IdOf<T> }> {
    const record = this.#withId(document);
    await this.#write(options, async () => {
      await this.#collection.insertOne(await this.#sealed(record, record._id), options);
    });
    return { insertedId: record._id as IdOf<T> };
  }

  async insertMany(
    documents: readonly NewRecord<T>[],
    options: DriverOptions = {},
  ): Promise<{ insertedIds: IdOf<T>[] }> {
    if (options["ordered"] === false) throw usage("an insertMany that is not ordered", "leave `ordered` out");
    const records = documents.map((document) => this.#withId(document));
    let left = records;
    if (left.length > 0)
      await this.#write(options, async () => {
        const sealed = await inOrder(left, (record) => this.#sealed(record, record._id));
        try {
          await this.#collection.insertMany(sealed, options);
        } catch (thrown) {
          // What stands before the rejected one is stored.
          if (isFenceRejection(thrown)) left = left.slice(firstFailed(thrown));
          throw thrown;
        }
      });
    return { insertedIds: records.map((record) => record._id as IdOf<T>) };
  }

  async replaceOne(
    filter: OneRecord<T>,
    document: NewRecord<T>,
    options: DriverOptions & { upsert?: boolean } = {},
  ): Promise<Updated> {
    // With an _id in the replacement MongoDB stores its form, 6 for a double 6.0, and the envelopes are bound to the one before.
    const { _id, ...replacement } = document as StoredDocument;
    if (_id !== undefined && !sameId(_id, oneId(filter)))
      throw usage("a replacement with another _id than its filter", "leave _id out of the document");
    const found = secretsIn(document, this.#fields);
    return await this.#change({
      filter,
      options,
      nothing: NOTHING,
      found,
      change: replacement,
      send: (sealed) => this.#collection.replaceOne(filter, sealed, options),
    });
  }

  async updateOne(
    filter: OneRecord<T>,
    update: FieldChanges<T>,
    options: DriverOptions & { upsert?: boolean } = {},
  ): Promise<Updated> {
    const found = secretsInUpdate(update, this.#fields);
    return await this.#change({
      filter,
      options,
      nothing: NOTHING,
      found,
      change: update,
      send: (sealed) => this.#collection.updateOne(filter, sealed, options),
    });
  }

  async findOneAndUpdate(
    filter: OneRecord<T>,
    update: FieldChanges<T>,
    options: DriverOptions & { upsert?: boolean; returnDocument?: "before" | "after" } = {},
  ): Promise<StoredRecord<T> | null> {
    refuseHidden(options);
    const found = secretsInUpdate(update, this.#fields);
    const record = await this.#change<object | null>({
      filter,
      options,
      nothing: null,
      found,
      change: update,
      send: (sealed) => this.#collection.findOneAndUpdate(filter, sealed, { ...options, includeResultMetadata: false }),
    });
    if (record === null) return null;
    return await this.#opened(record as StoredDocument, options).catch((thrown) => {
      throw madeButNotOpened(thrown);
    });
  }

  async findOne(filter: object, options: DriverOptions = {}): Promise<StoredRecord<T> | null> {
    refuseHidden(options);
    refuseSearched(filter, this.#fields);
    const record = await this.#collection.findOne(filter, options);
    return record === null ? null : await this.#opened(record as StoredDocument, options);
  }

  find(filter: object, options: DriverOptions = {}): FoundRecords<T> {
    refuseHidden(options);
    refuseSearched(filter, this.#fields);
    const cursor = this.#collection.find(filter, options);
    const open = (record: object) => this.#opened(record as StoredDocument, options);
    return {
      toArray: async () => await inOrder(await cursor.toArray(), open),
      async *[Symbol.asyncIterator]() {
        for await (const record of cursor) yield await open(record);
      },
    };
  }

  // -------------------------------------------------------------------------------------------------------------------

  #withId(document: object): StoredDocument {
    const { _id, ...rest } = document as StoredDocument;
    return { _id: _id === undefined ? this.#newId() : _id, ...rest };
  }

  /** In a transaction the whole of it must be done again, by whoever began it. */
  async #write<R>(options: DriverOptions, work: () => Promise<R>): Promise<R> {
    return inTransaction(options) ? await work() : await this.#encryption.write(work);
  }

  /** Writes to the one record that a filter names, with envelopes that are bound to its `_id` as it is stored. */
  async #change<R extends object | null>({
    filter,
    options,
    nothing,
    found,
    change,
    send,
  }: {
    filter: OneRecord<T>;
    options: DriverOptions & { upsert?: boolean };
    nothing: R;
    found: FoundSecret[];
    change: object;
    send: (sealed: object) => Promise<object | null>;
  }): Promise<R> {
    const id = oneId(filter);
    if (found.length > 0 && options["collation"] !== undefined)
      throw usage("a change by a collation", "leave `collation` out: by it the _id may name another record");
    refuseSearched(filter, this.#fields);
    return await this.#write(options, async () => {
      if (found.length === 0) return (await send(change)) as R;
      const stored = isOneForm(id) ? id : await storedIdOf(this.#collection, id, options);
      if (stored === undefined && options.upsert !== true) return nothing;
      return (await send(await this.#replaced(change, found, stored ?? id))) as R;
    });
  }

  async #sealed(document: object, id: unknown): Promise<object> {
    return await this.#replaced(document, secretsIn(document, this.#fields), id);
  }

  async #replaced(document: object, found: FoundSecret[], id: unknown): Promise<object> {
    const envelopes = await this.#encryption.encryptMany(
      found.map(({ field, plaintext }) => ({ plaintext, place: this.#place(id, field) })),
    );
    return withReplaced(document, found, envelopes);
  }

  async #opened(record: StoredDocument, options: DriverOptions): Promise<StoredRecord<T>> {
    const places = envelopesIn(record, this.#fields);
    const open = (id: unknown) =>
      this.#encryption.decryptMany(
        places.map(({ field, stored }) => ({ envelope: stored, place: this.#place(id, field) })),
      );
    const plaintexts = await open(record._id).catch(async (thrown) => {
      if (!(thrown instanceof KekError && thrown.code === "decryption_failed")) throw thrown;
      if (!canBeReadOtherwise(record._id)) throw thrown;
      const stored = await storedIdOf(this.#collection, record._id, options);
      if (stored === undefined || sameId(stored, record._id)) throw thrown;
      return await open(stored);
    });
    return opened(record, places, plaintexts) as StoredRecord<T>;
  }

  #place(id: unknown, { path }: SecretField) {
    return { collection: this.#collection.collectionName, id, field: path };
  }
}

/** What the driver says of an update that found no record. */
const NOTHING: Updated = { acknowledged: true, matchedCount: 0, modifiedCount: 0, upsertedCount: 0 };

/** The same error, for a caller that must know that its write is stored. What the driver throws keeps its own form and labels. */
function madeButNotOpened(thrown: unknown): unknown {
  if (!(thrown instanceof KekError)) return thrown;
  return new KekError(
    thrown.code,
    `the update was made; the returned document cannot be opened: ${thrown.message}`,
    `do not repeat the update (in a transaction it is stored with the commit). For the field that cannot be opened: ${thrown.hint}`,
    { cause: thrown },
  );
}

/** @throws KekError `usage` unless the filter has an `_id`, and no operator on it. */
function oneId(filter: { _id?: unknown }): unknown {
  const { _id: id } = filter;
  if (id !== undefined && !isQuery(id)) return id;
  throw usage(
    "a change by a filter that does not name one record",
    "give the record's _id itself in the filter; an envelope belongs to one record",
  );
}

/** Whether it may match any number of records: operators, also in a Map, and regular expressions, also those of bson. */
function isQuery(id: unknown): boolean {
  if (typeof id !== "object" || id === null) return false;
  if (id instanceof RegExp || (id as { _bsontype?: unknown })._bsontype === "BSONRegExp") return true;
  const first = id instanceof Map ? id.keys().next().value : Object.keys(id)[0];
  return String(first).startsWith("$");
}

/** @throws KekError `usage` when a read leaves out what is needed to open envelopes, or decodes nothing. */
function refuseHidden(options: DriverOptions): void {
  const projection = (options["projection"] ?? {}) as { _id?: unknown };
  if (projection._id !== undefined && !Number(projection._id)) throw usage("a read without _id", "leave _id in");
  if (options["raw"] === true) throw usage("a raw read", "leave `raw` out");
}

/** Where an ordered insertMany stopped: drivers say it in one error or in a list of one. */
function firstFailed(thrown: unknown): number {
  const { writeErrors } = thrown as { writeErrors?: unknown };
  const first = (Array.isArray(writeErrors) ? writeErrors[0] : writeErrors) as { index?: number } | undefined;
  return first?.index ?? 0;
}
