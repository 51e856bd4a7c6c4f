import type { DriverOptions } from "./driver_types.ts";
import type { FieldChanges, IdOf, NewRecord, OneRecord, SecretFields, StoredRecord } from "./field_types.ts";

/** How a collection's documents are encrypted. */
export interface CollectionOptions<T> {
  /** What is encrypted, by path: `"text"` for strings, `"bytes"` for Uint8Arrays. */
  fields: SecretFields<T>;
  /**
   * Makes the `_id` of a record that has none: the envelope is bound to it, so it cannot be left to the driver. An ObjectId of
   * the `bson` package 7 when left out, which is what the mongodb driver 7 takes; with another driver give
   * `() => new ObjectId()` of its own.
   */
  newId?: () => IdOf<T>;
}

/** What an update did, as the driver says it. */
export interface Updated {
  acknowledged: boolean;
  matchedCount: number;
  modifiedCount: number;
  upsertedCount: number;
}

/**
 * Documents with plaintext here and envelopes in MongoDB. Each write is encrypted again and tried again when a rotation's fence
 * rejects it. Everything else, as deleting, counting and aggregating, is for the driver's own collection.
 *
 * An encrypted field that is missing, undefined or null is stored as that, with no envelope, and read as that.
 * Each method may throw, besides what the driver throws: KekError `usage` for what cannot be done on encrypted fields or a value
 * of another type than declared, and as `Kek.encrypt`, `Kek.decrypt` and `Kek.write`.
 */
export interface EncryptedCollection<T> {
  /** @returns the record's `_id`, made here when the document has none. */
  insertOne(document: NewRecord<T>, options?: DriverOptions): Promise<{ insertedId: IdOf<T> }>;

  /** In order, as the driver does by default; `ordered: false` is refused. An error's index counts from the first not yet stored. */
  insertMany(documents: readonly NewRecord<T>[], options?: DriverOptions): Promise<{ insertedIds: IdOf<T>[] }>;

  /** @param filter names one record by its `_id`; other conditions may stand beside it. */
  replaceOne(
    filter: OneRecord<T>,
    document: NewRecord<T>,
    options?: DriverOptions & { upsert?: boolean },
  ): Promise<Updated>;

  /**
   * Changes one record; there is no updateMany, since an envelope belongs to one record.
   * @param filter names one record by its `_id`; other conditions may stand beside it.
   */
  updateOne(
    filter: OneRecord<T>,
    update: FieldChanges<T>,
    options?: DriverOptions & { upsert?: boolean },
  ): Promise<Updated>;

  /**
   * As `updateOne`. An error whose message begins with `the update was made` is about the returned record alone: the record
   * before the change may hold plaintext or a damaged envelope.
   * @returns the record before the change, or after it with `returnDocument: "after"`; null when none matched.
   */
  findOneAndUpdate(
    filter: OneRecord<T>,
    update: FieldChanges<T>,
    options?: DriverOptions & { upsert?: boolean; returnDocument?: "before" | "after" },
  ): Promise<StoredRecord<T> | null>;

  /** A projection may leave encrypted fields out, but not `_id`. Nothing is found by the value of an encrypted field. */
  findOne(filter: object, options?: DriverOptions): Promise<StoredRecord<T> | null>;

  /** As `findOne`. Records are read and opened as they are asked for; `toArray` opens many at once. */
  find(filter: object, options?: DriverOptions): FoundRecords<T>;
}

/** The records found, each opened when it is read. */
export interface FoundRecords<T> extends AsyncIterable<StoredRecord<T>> {
  toArray(): Promise<StoredRecord<T>[]>;
}
