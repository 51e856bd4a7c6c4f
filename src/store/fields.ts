import type { FieldName } from "../config/config.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import type { FieldDoc } from "./documents.ts";
import { serverCode } from "./failures.ts";
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
  // The index first: a field that MongoDB makes none for must not stand in the list, where every rotation would meet it.
  try {
    await ensureIndex(store, field);
  } catch (thrown) {
    throw unfit(field, thrown) ?? thrown;
  }
  await listField(store, field, registeredBy);
}

/** The list alone: what a rotation goes by. */
export async function listField(store: Store, field: FieldName, registeredBy: string): Promise<void> {
  await fields(store).updateOne(
    { _id: fieldId(field) },
    { $setOnInsert: { collection: field.collection, path: field.path, registered_by: registeredBy } },
    { upsert: true },
  );
}

/** Making an index that is there does nothing; on a collection that is not, it creates the collection. */
export async function ensureIndex(store: Store, field: FieldName): Promise<void> {
  await store.db.collection(field.collection).createIndex({ [versionKey(field.path)]: 1, _id: 1 });
}

/**
 * A query by the field's index; where somebody has dropped that, without it: slower, and as right. A rotation makes it anew.
 * @param query is given what to add to its options.
 */
export async function byIndex<T>({ path }: FieldName, query: (index: { hint?: IndexKey }) => Promise<T>): Promise<T> {
  try {
    return await query({ hint: { [versionKey(path)]: 1, _id: 1 } });
  } catch (thrown) {
    const BAD_VALUE = 2;
    if (serverCode(thrown) !== BAD_VALUE || !/hint/.test(messageOf(thrown))) throw thrown;
    return await query({});
  }
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

type IndexKey = Record<string, 1>;

const CANNOT_CREATE_INDEX = 67;
const INVALID_NAMESPACE = 73;

/** @returns undefined when it is not the field's name, or its collection, that MongoDB refuses. */
function unfit(field: FieldName, thrown: unknown): KekError | undefined {
  const code = serverCode(thrown);
  if (code !== CANNOT_CREATE_INDEX && code !== INVALID_NAMESPACE) return undefined;
  const why = code === INVALID_NAMESPACE ? "its collection's name is too long" : "its index cannot be made";
  return new KekError(
    "usage",
    `${JSON.stringify(fieldId(field))} cannot hold envelopes: ${why}`,
    "a collection takes 64 indexes, one of them for each field with envelopes; its full name has at most 255 bytes",
    { cause: thrown },
  );
}

function fields(store: Store) {
  return store.db.collection<FieldDoc>("kek_fields");
}
