import type { FieldName } from "../config/config.ts";
import type { FieldDoc } from "./documents.ts";
import type { Session, Store } from "./store.ts";

/** `kek_fields`: every field that holds envelopes, and its index. A field that is not here would be missed. */

export function fieldId(field: FieldName): string {
  return `${field.collection}:${field.path}`;
}

export function versionKey(path: string): string {
  return `${path}.kek_version`;
}

/** Registers a field and makes its index. Done before the first envelope of the field is written. */
export async function registerField(store: Store, field: FieldName, registeredBy: string): Promise<void> {
  await fields(store).updateOne(
    { _id: fieldId(field) },
    { $setOnInsert: { collection: field.collection, path: field.path, registered_by: registeredBy } },
    { upsert: true },
  );
  await ensureIndex(store, field);
}

/** Making an index that is there does nothing; on a collection that is not, it creates the collection. */
export async function ensureIndex(store: Store, field: FieldName): Promise<void> {
  await store.db.collection(field.collection).createIndex({ [versionKey(field.path)]: 1, _id: 1 });
}

export async function readFields(store: Store, session?: Session): Promise<FieldDoc[]> {
  return await fields(store)
    .find({}, session === undefined ? {} : { session })
    .sort({ _id: 1 })
    .toArray();
}

// ---------------------------------------------------------------------------------------------------------------------

function fields(store: Store) {
  return store.db.collection<FieldDoc>("kek_fields");
}
