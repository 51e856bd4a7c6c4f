import type { FieldName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import type { FieldDoc } from "./documents.ts";
import { fieldFault } from "./field_names.ts";
import { fieldOf } from "./shapes.ts";
import type { Session, Store } from "./store.ts";

/** `kek_fields`: every field that holds envelopes, and its index. A field that is not here would be missed. */

export function fieldId(field: FieldName): string {
  return `${field.collection}:${field.path}`;
}

export function versionKey(path: string): string {
  return `${path}.kek_version`;
}

/**
 * Registers a field and makes its index. Done before the first envelope of the field is written.
 * @throws KekError `usage` for a name that no field can have: one that is registered is there for every process.
 */
export async function registerField(store: Store, field: FieldName, registeredBy: string): Promise<void> {
  const fault = fieldFault(field);
  if (fault !== undefined) {
    throw new KekError(
      "usage",
      `${JSON.stringify(fieldId(field))} cannot hold envelopes: ${fault}`,
      "name a collection of the application's, and the path of a field in it",
    );
  }
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
  const found = await fields(store)
    .find({}, session === undefined ? {} : { session })
    .sort({ _id: 1 })
    .toArray();
  return found.map(fieldOf);
}

// ---------------------------------------------------------------------------------------------------------------------

function fields(store: Store) {
  return store.db.collection<FieldDoc>("kek_fields");
}
