import type { Document } from "mongodb";
import type { FieldName } from "../config/config.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import { versionKey } from "../protocol/version_path.ts";
import { serverCode } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/**
 * The index of a field over its KEK version: `{ "<path>.kek_version": 1, _id: 1 }`. It is used only where its definition says that
 * every record is in it, and by its name: a hint by key pattern may pick any index with those keys.
 */

/** The name that MongoDB gives it by default: a contract with programs that make it by its keys. */
export function versionIndexName(path: string): string {
  return `${versionKey(path)}_1__id_1`;
}

/** The path of the field over whose versions an index is, whatever its name and options; undefined for any other index. Pure. */
export function pathOfIndex({ name, key }: IndexDefinition): string | undefined {
  const names = [name.replace(/_1__id_1$/, ""), ...Object.keys(key)];
  return names.flatMap((each) => /^(.+)\.kek_version$/.exec(each)?.[1] ?? []).at(0);
}

export type IndexState =
  /** Every record is in it. */
  | { state: "whole"; name: string }
  | { state: "absent" }
  | { state: "no collection" }
  /** An index that is not whole has the name, or keeps MongoDB from making one. */
  | { state: "unusable"; name: string; why: string; remedy: string };

/** What `listIndexes` says of one index. */
export interface IndexDefinition extends Document {
  name: string;
  key: Record<string, unknown>;
}

/** What the indexes of a collection are worth for counting a field's versions. Pure. */
export function judgeIndexes(
  database: string,
  { collection, path }: FieldName,
  indexes: IndexDefinition[],
): IndexState {
  const name = versionIndexName(path);
  const alike = indexes.filter(({ key }) => JSON.stringify(key) === JSON.stringify({ [versionKey(path)]: 1, _id: 1 }));
  // Another name does no harm: what counts is the definition, and MongoDB makes no second index that is the same.
  const ordered = [...alike].sort((a, b) => Number(b.name === name) - Number(a.name === name));
  const whole = ordered.find((index) => defectOf(index) === undefined);
  if (whole !== undefined) return { state: "whole", name: whole.name };
  const named = indexes.find((index) => index.name === name);
  if (named === undefined) {
    const twin = alike.find(isTwin);
    return twin === undefined ? { state: "absent" } : blocked(database, { collection, path }, twin);
  }
  const why = alike.includes(named) ? (defectOf(named) as string) : "has other keys";
  const remedy =
    named["hidden"] === true && defectOf({ ...named, hidden: false }) === undefined
      ? mongosh(database, `runCommand({collMod: ${text(collection)}, index: {name: ${text(name)}, hidden: false}})`)
      : mongosh(database, `getCollection(${text(collection)}).dropIndex(${text(name)})`);
  return { state: "unusable", name, why, remedy };
}

/** @throws MongoServerError when MongoDB does not permit it. */
export async function readIndexState(store: Store, field: FieldName): Promise<IndexState> {
  const indexes = await listIndexes(store, field.collection);
  return indexes === undefined ? { state: "no collection" } : judgeIndexes(store.db.databaseName, field, indexes);
}

/** @returns undefined when there is no such collection. A view has no indexes. */
export async function listIndexes(store: Store, collection: string): Promise<IndexDefinition[] | undefined> {
  try {
    return (await store.db.collection(collection).listIndexes().toArray()) as IndexDefinition[];
  } catch (thrown) {
    if (serverCode(thrown) === NAMESPACE_NOT_FOUND) return undefined;
    if (serverCode(thrown) === COMMAND_NOT_SUPPORTED_ON_VIEW) return [];
    throw thrown;
  }
}

/**
 * Makes a field's index. What is there and whole is left alone; on a collection that does not exist it creates the collection.
 * @returns how the index is then: never "absent".
 */
export async function makeIndex(store: Store, field: FieldName): Promise<IndexState> {
  const { collection, path } = field;
  const before = await readIndexState(store, field);
  if (before.state === "whole" || before.state === "unusable") return before;
  try {
    // Without a collation of its own it would take over the collection's, and then hold the _ids in another order.
    await store.db
      .collection(collection)
      .createIndex(
        { [versionKey(path)]: 1, _id: 1 },
        { name: versionIndexName(path), collation: { locale: "simple" } },
      );
    return { state: "whole", name: versionIndexName(path) };
  } catch (thrown) {
    if (!CONFLICTS.includes(serverCode(thrown) ?? 0)) throw thrown;
    return inTheWay(store.db.databaseName, field, (await listIndexes(store, collection)) ?? [], thrown);
  }
}

/**
 * The same for a collection that is there already. Never creates one: a collection that was renamed away could then not be
 * renamed back.
 */
export async function ensureIndex(store: Store, field: FieldName): Promise<IndexState> {
  const state = await readIndexState(store, field);
  return state.state === "absent" ? await makeIndex(store, field) : state;
}

/** Of a field that is no field any more. */
export async function dropIndex(store: Store, { collection, path }: FieldName): Promise<void> {
  const INDEX_NOT_FOUND = 27;
  try {
    await store.db.collection(collection).dropIndex(versionIndexName(path));
  } catch (thrown) {
    const NOTHING_THERE = [NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, COMMAND_NOT_SUPPORTED_ON_VIEW];
    if (!NOTHING_THERE.includes(serverCode(thrown) ?? 0)) throw thrown;
  }
}

/** What to add to a query's options. */
export interface IndexHint {
  hint: string | { $natural: 1 };
}

/** By the field's index if that is whole, else by reading the collection. */
export async function indexHint(store: Store, field: FieldName): Promise<IndexHint> {
  const index = await readIndexState(store, field);
  return { hint: index.state === "whole" ? index.name : { $natural: 1 } };
}

/**
 * A query by the field's index if that is whole, else by reading the collection: slower, and as right.
 * @param query is given what to add to its options.
 */
export async function byIndex<T>(store: Store, field: FieldName, query: (how: IndexHint) => Promise<T>): Promise<T> {
  const how = await indexHint(store, field);
  try {
    return await query(how);
  } catch (thrown) {
    // Dropped or hidden between the look and the query.
    const BAD_VALUE = 2;
    if (typeof how.hint !== "string" || serverCode(thrown) !== BAD_VALUE || !/hint/.test(messageOf(thrown)))
      throw thrown;
    return await query({ hint: { $natural: 1 } });
  }
}

/** Whether a record has an array on the field's path: what MongoDB notes of an index once it has met one. */
export async function hasArrays(store: Store, { collection, path }: FieldName, index: string): Promise<boolean> {
  const cursor = store.db.collection(collection).find({ [versionKey(path)]: 1 }, { hint: index });
  return JSON.stringify(await cursor.explain("queryPlanner")).includes('"isMultiKey":true');
}

/** Whether an envelope lies in an array on the field's path: nobody could read it, nor rewrap it. Cheap where there are no arrays. */
export async function hasEnvelopeInArray(store: Store, field: FieldName, index: string): Promise<boolean> {
  if (!(await hasArrays(store, field, index))) return false;
  const names = field.path.split(".");
  const onTheWay = names.map((_, at) => ({ $isArray: [`$${names.slice(0, at + 1).join(".")}`] }));
  const inArray = { [versionKey(field.path)]: { $gte: 1 }, $expr: { $or: onTheWay } };
  return (
    (await store.db.collection(field.collection).findOne(inArray, { hint: index, projection: { _id: 1 } })) !== null
  );
}

/** What is wrong with a field's index, as an error that says how to put it right. */
export function indexError(
  { collection, path }: FieldName,
  { name, why, remedy }: { name: string; why: string; remedy: string },
): KekError {
  return new KekError(
    "index_unusable",
    `the index ${name} of ${collection} ${why}, so the versions of ${collection}:${path} cannot be counted by it`,
    remedy,
  );
}

// ---------------------------------------------------------------------------------------------------------------------

const NAMESPACE_NOT_FOUND = 26;
const COMMAND_NOT_SUPPORTED_ON_VIEW = 166;
const INDEX_ALREADY_EXISTS = 68;
const INDEX_OPTIONS_CONFLICT = 85;
const INDEX_KEY_SPECS_CONFLICT = 86;
const CONFLICTS = [INDEX_ALREADY_EXISTS, INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT];

/** Why records may be missing from an index with the right keys, or be found in another order than theirs. */
function defectOf(index: Document): string | undefined {
  if (index["hidden"] === true) return "is hidden";
  if (index["partialFilterExpression"] !== undefined) return "is partial";
  if (index["sparse"] === true) return "is sparse";
  if (index["collation"] !== undefined) return "has a collation";
  if (index["buildUUID"] !== undefined) return "is still being built";
  return undefined;
}

/**
 * MongoDB makes no second index with the same keys, unless these options differ (MongoDB manual, "createIndexes: Multiple Indexes
 * with Same Key Pattern"): one that is only hidden keeps ours from being made.
 */
function isTwin(index: Document): boolean {
  return (
    index["partialFilterExpression"] === undefined &&
    index["collation"] === undefined &&
    index["sparse"] !== true &&
    index["unique"] !== true
  );
}

function blocked(database: string, { collection, path }: FieldName, { name, ...index }: Document): IndexState {
  return {
    state: "unusable",
    name: String(name),
    why: `${defectOf(index) ?? "is there"} and keeps MongoDB from making ${versionIndexName(path)}`,
    remedy: mongosh(database, `getCollection(${text(collection)}).dropIndex(${text(String(name))})`),
  };
}

/** Which index MongoDB means: it names none that a program could rely on. */
function inTheWay(database: string, field: FieldName, indexes: IndexDefinition[], cause: unknown): IndexState {
  const state = judgeIndexes(database, field, indexes);
  if (state.state !== "absent") return state;
  const other = indexes.find(
    ({ key }) => JSON.stringify(key) === JSON.stringify({ [versionKey(field.path)]: 1, _id: 1 }),
  );
  if (other === undefined) throw cause;
  return blocked(database, field, other);
}

/** With the database in it: a shell stands in another one where the URI names none. */
function mongosh(database: string, command: string): string {
  return `run in mongosh: db.getSiblingDB(${text(database)}).${command}`;
}

function text(name: string): string {
  return JSON.stringify(name);
}
