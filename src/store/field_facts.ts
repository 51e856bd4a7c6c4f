import type { FieldName } from "../config/config.ts";
import type { FieldDoc, ValidatorOptions } from "../protocol/documents.ts";
import { type CollectionInfo, readCollections } from "./collections.ts";
import { serverCode } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";
import { hasEnvelopeInArray, type IndexState, judgeIndexes, listIndexes, pathOfIndex } from "./version_index.ts";

/** How registered fields stand in the database, and what looks like a field and is not registered: read without their records. */

export interface FieldFact {
  field: FieldName;
  /** Undefined when there is no such collection. */
  collection: CollectionInfo | undefined;
  index: IndexState;
  /** Whether an envelope lies in an array on the path. */
  inArray: boolean;
  validator: ValidatorOptions | undefined;
}

export interface FieldFacts {
  /** The name of the install's database, for commands that are told to people. */
  database: string;
  fields: FieldFact[];
  /** Indexes over KEK versions at places that are not registered: the collection was renamed, or `kek_fields` was lost. */
  unregistered: FieldName[];
}

export const NO_FIELDS: FieldFacts = { database: "", fields: [], unregistered: [] };

export async function readFieldFacts(store: Store, fields: FieldDoc[]): Promise<FieldFacts> {
  const collections = await readCollections(store);
  const indexes = new Map(
    await Promise.all(
      collections
        .filter(({ type }) => type === "collection")
        .map(async ({ name }) => [name, (await listIndexes(store, name)) ?? []] as const),
    ),
  );
  const facts = fields.map(async (doc): Promise<FieldFact> => {
    const field = { collection: doc.collection, path: doc.path };
    const collection = collections.find(({ name }) => name === field.collection);
    const index: IndexState =
      collection === undefined
        ? { state: "no collection" }
        : judgeIndexes(store.db.databaseName, field, indexes.get(field.collection) ?? []);
    const inArray = index.state === "whole" && (await mayBeInArray(store, field, index.name));
    return { field, collection, index, inArray, validator: collection?.validator };
  });
  const registered = new Set(fields.map(({ collection, path }) => `${collection}:${path}`));
  const unregistered = [...indexes].flatMap(([collection, all]) =>
    all.flatMap((index) => {
      const path = pathOfIndex(index);
      return path === undefined || registered.has(`${collection}:${path}`) ? [] : [{ collection, path }];
    }),
  );
  // A field may have several indexes.
  const once = unregistered.filter(
    ({ collection, path }, at) =>
      unregistered.findIndex((other) => other.collection === collection && other.path === path) === at,
  );
  return { database: store.db.databaseName, fields: await Promise.all(facts), unregistered: once };
}

// ---------------------------------------------------------------------------------------------------------------------

const BAD_VALUE = 2;
const NAMESPACE_NOT_FOUND = 26;

/** The index, or the collection, may be gone by now: then the next look tells. */
async function mayBeInArray(store: Store, field: FieldName, index: string): Promise<boolean> {
  try {
    return await hasEnvelopeInArray(store, field, index);
  } catch (thrown) {
    if (![BAD_VALUE, NAMESPACE_NOT_FOUND].includes(serverCode(thrown) ?? 0)) throw thrown;
    return false;
  }
}
