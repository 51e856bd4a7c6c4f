import { EJSON } from "bson";
import type { Document } from "mongodb";
import type { FieldName } from "../config/config.ts";
import { NO_VERSION, type VersionCount } from "../protocol/version_count.ts";
import { versionKey } from "../protocol/version_path.ts";
import { fieldId } from "./fields.ts";
import type { Session, Store } from "./store.ts";
import { byIndex, type IndexHint } from "./version_index.ts";

/**
 * Version counts: envelopes by field and version, with majority read concern. By aggregation, for the `count` command may count
 * documents that a sharded cluster has moved away (MongoDB manual, "Count: Behavior").
 */

/** How many envelopes of one field are at one version, whatever type of number says so. */
export async function countAt(store: Store, field: FieldName, version: number): Promise<number> {
  return await countWith(store, field, { [versionKey(field.path)]: version });
}

/**
 * The same inside a transaction, in which MongoDB lists no indexes.
 * @param how of `indexHint`, from before the transaction.
 */
export async function countAtIn(
  store: Store,
  { session, field, version, how }: { session: Session; field: FieldName; version: number; how: IndexHint },
): Promise<number> {
  const stages = [{ $match: { [versionKey(field.path)]: version } }, { $count: "n" }];
  const options = { session, collation: { locale: "simple" }, ...how } as never;
  const [row] = await store.db.collection(field.collection).aggregate<{ n: number }>(stages, options).toArray();
  return row?.n ?? 0;
}

/** How many envelopes a field has, at whatever version. */
export async function countEnvelopes(store: Store, field: FieldName): Promise<number> {
  return await countWith(store, field, { [versionKey(field.path)]: { $gte: 1 } });
}

/**
 * Every field at every version that occurs. What is no int32 is shown as JSON with its type, so that the text "1" or the double
 * 1.0 never passes for version 1; values without a version are looked for too.
 */
export async function countVersions(store: Store, fields: FieldName[]): Promise<VersionCount[]> {
  const rows: VersionCount[] = [];
  for (const field of fields) {
    const key = versionKey(field.path);
    const group = { _id: { version: `$${key}`, type: { $type: `$${key}` } }, count: { $sum: 1 } };
    const found = await aggregate<{ _id: Version; count: number }>(store, field, [{ $group: group }]);
    for (const { _id, count } of found.filter(({ _id }) => isThere(_id)).toSorted(byVersion))
      rows.push({ field: fieldId(field), version: labelOf(_id), count });
  }
  for (const field of fields) {
    const query = { [field.path]: { $exists: true, $ne: null }, [versionKey(field.path)]: null };
    const count = await countWith(store, field, query);
    if (count > 0) rows.push({ field: fieldId(field), version: NO_VERSION, count });
  }
  return rows;
}

// ---------------------------------------------------------------------------------------------------------------------

async function countWith(store: Store, field: FieldName, query: Document): Promise<number> {
  const [row] = await aggregate<{ n: number }>(store, field, [{ $match: query }, { $count: "n" }]);
  return row?.n ?? 0;
}

async function aggregate<T extends Document>(store: Store, field: FieldName, stages: Document[]): Promise<T[]> {
  const options = { readConcern: { level: "majority" }, collation: { locale: "simple" }, allowDiskUse: true } as const;
  return await byIndex(store, field, (how) =>
    store.db
      .collection(field.collection)
      .aggregate<T>(stages, { ...options, ...how } as never)
      .toArray(),
  );
}

const NOTHING = ["missing", "null", "undefined"];

interface Version {
  version: unknown;
  type: string;
}

function labelOf({ version, type }: Version): string {
  if (type === "int") return String(Number(String(version)));
  // A number that is equal to a version, and is none: readers of format 1 refuse it.
  if (["long", "double", "decimal"].includes(type)) return `${Number(String(version))} (${type})`;
  return EJSON.stringify(version, { relaxed: false });
}

/** Of an array on the path that holds no version MongoDB makes an empty array. */
function isThere({ version, type }: Version): boolean {
  return !NOTHING.includes(type) && !(Array.isArray(version) && version.length === 0);
}

function byVersion(a: { _id: Version }, b: { _id: Version }): number {
  return Number(String(a._id.version)) - Number(String(b._id.version)) || a._id.type.localeCompare(b._id.type);
}
