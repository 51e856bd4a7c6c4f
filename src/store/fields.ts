import type { FieldName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import type { FieldDoc } from "../protocol/documents.ts";
import { collectionFault, readCollections } from "./collections.ts";
import { fieldOf } from "./document_reader.ts";
import { fieldFault, positionIn } from "./field_names.ts";
import { serverCode } from "./mongodb_errors.ts";
import type { Session, Store } from "./store.ts";
import { dropIndex, hasArrays, indexError, makeIndex } from "./version_index.ts";

/** `kek_fields`: every field that holds envelopes, and its index. A field that is not here would be missed. */

export function fieldId(field: FieldName): string {
  return `${field.collection}:${field.path}`;
}

/**
 * Registers a field and makes its index. Done before the first envelope of the field is written.
 * @throws KekError as `prepareField`.
 */
export async function registerField(store: Store, field: FieldName, registeredBy: string): Promise<void> {
  await prepareField(store, field);
  await listField(store, field, registeredBy);
}

/**
 * Whether a field can hold envelopes, by its name and its collection.
 * @throws KekError `usage`.
 */
export async function checkField(store: Store, field: FieldName): Promise<void> {
  const fault = fieldFault(field);
  if (fault !== undefined)
    throw unfit(field, fault, "name a collection of the application's, and the path of a field in it");
  if ((await missingFields(store, [field])).length > 0) await refuseUnfit(store, field);
}

/**
 * Everything but the list: the index comes first, for a field that MongoDB makes none for must not stand in the list, where every
 * rotation would meet it. A field that is in the list already is not judged again: its envelopes are there, and refusing it
 * would make them unreadable.
 * @throws KekError `usage` for what can hold no envelopes: a name, a path through arrays, a view, a time series or a capped
 * collection. `index_unusable` where another index stands in the way.
 */
export async function prepareField(store: Store, field: FieldName): Promise<void> {
  await checkField(store, field);
  const known = (await missingFields(store, [field])).length === 0;
  const index = await makeIndex(store, field).catch((thrown) => {
    throw refusedIndex(field, thrown) ?? thrown;
  });
  if (known) return;
  if (index.state === "unusable") throw indexError(field, index);
  if (index.state === "whole" && (await hasArrays(store, field, index.name))) {
    await dropIndex(store, field);
    throw unfit(field, "records of its collection have an array on this path", NO_ARRAYS);
  }
}

/** @returns whether it was in the list. */
export async function unlistField(store: Store, field: FieldName, session: Session): Promise<boolean> {
  return (await fields(store).deleteOne({ _id: fieldId(field) }, { session })).deletedCount === 1;
}

/** The list alone: what a rotation goes by. @returns whether it was not in it. */
export async function listField(
  store: Store,
  field: FieldName,
  registeredBy: string,
  session?: Session,
): Promise<boolean> {
  const listed = await fields(store).updateOne(
    { _id: fieldId(field) },
    { $setOnInsert: { collection: field.collection, path: field.path, registered_by: registeredBy } },
    { upsert: true, ...(session === undefined ? {} : { session }) },
  );
  return listed.upsertedCount === 1;
}

/** Which of them are not in the list. */
export async function missingFields(store: Store, wanted: FieldName[]): Promise<FieldName[]> {
  const ids = wanted.map(fieldId);
  const there = await fields(store)
    .find({ _id: { $in: ids } }, { projection: { _id: 1 } })
    .toArray();
  return wanted.filter((field) => !there.some(({ _id }) => _id === fieldId(field)));
}

export async function readFields(store: Store, session?: Session): Promise<FieldDoc[]> {
  const found = await fields(store)
    .find({}, session === undefined ? {} : { session })
    .sort({ _id: 1 })
    .toArray();
  return found.map(fieldOf);
}

// ---------------------------------------------------------------------------------------------------------------------

const CANNOT_CREATE_INDEX = 67;
const INVALID_NAMESPACE = 73;
const NO_ARRAYS =
  "store each secret at a path without arrays: in a record of its own, or under a name instead of a position";

function unfit(field: FieldName, why: string, hint: string, cause?: unknown): KekError {
  return new KekError("usage", `${JSON.stringify(fieldId(field))} cannot hold envelopes: ${why}`, hint, { cause });
}

async function refuseUnfit(store: Store, field: FieldName): Promise<void> {
  const position = positionIn(field.path);
  if (position !== undefined)
    throw unfit(field, `MongoDB reads ${JSON.stringify(position)} in its path as a position in an array`, NO_ARRAYS);
  const [collection] = await readCollections(store, [field.collection]);
  const fault = collection && collectionFault(collection);
  if (fault !== undefined) throw unfit(field, fault, "keep encrypted records in an ordinary collection");
}

/** @returns undefined when it is not the field's name, or its collection, that MongoDB refuses. */
function refusedIndex(field: FieldName, thrown: unknown): KekError | undefined {
  const code = serverCode(thrown);
  if (code !== CANNOT_CREATE_INDEX && code !== INVALID_NAMESPACE) return undefined;
  const why = code === INVALID_NAMESPACE ? "its collection's name is too long" : "its index cannot be made";
  const hint =
    "a collection takes 64 indexes, one of them for each field with envelopes; its full name has at most 255 bytes";
  return unfit(field, why, hint, thrown);
}

function fields(store: Store) {
  return store.db.collection<FieldDoc>("kek_fields");
}
