import { EJSON } from "bson";
import type { Document } from "mongodb";
import type { FieldName } from "../config/config.ts";
import { byIndex, fieldId, versionKey } from "./fields.ts";
import type { Store } from "./store.ts";

/** The census: envelopes by field and version, from the index, with majority read concern. */

export interface CensusRow {
  /** `<collection>:<path>` */
  field: string;
  /** As text: a foreign writer may have stored something that is no int32, and that must show. */
  version: string;
  count: number;
}

/** How many envelopes of one field are at one version. */
export async function countAt(store: Store, field: FieldName, version: number): Promise<number> {
  return await countWith(store, field, { [versionKey(field.path)]: version });
}

/** What stands for envelopes that name no version at all. */
export const NO_VERSION = "none";

/**
 * Every field at every version that occurs. What is no number is shown as JSON, so that the text "1" never passes for
 * version 1; envelopes without a version are looked for too.
 */
export async function takeCensus(store: Store, fields: FieldName[]): Promise<CensusRow[]> {
  const rows = await countVersions(store, fields);
  for (const field of fields) {
    const query = { [field.path]: { $exists: true, $ne: null }, [versionKey(field.path)]: null };
    const count = await countWith(store, field, query);
    if (count > 0) rows.push({ field: fieldId(field), version: NO_VERSION, count });
  }
  return rows;
}

/** The same from the index alone: cheap enough to be asked every second. */
export async function countVersions(store: Store, fields: FieldName[]): Promise<CensusRow[]> {
  const rows: CensusRow[] = [];
  for (const field of fields) {
    const key = versionKey(field.path);
    for (const version of await store.db.collection(field.collection).distinct(key)) {
      if (version === null || version === undefined) continue;
      const count = await countWith(store, field, { [key]: version });
      const label = typeof version === "number" ? String(version) : EJSON.stringify(version, { relaxed: false });
      rows.push({ field: fieldId(field), version: label, count });
    }
  }
  return rows;
}

/** Whether a row of the census is at a version, as opposed to something that only looks like one. */
export function isVersion(row: CensusRow): boolean {
  return /^[1-9]\d*$/.test(row.version);
}

// ---------------------------------------------------------------------------------------------------------------------

async function countWith(store: Store, field: FieldName, query: Document): Promise<number> {
  const counted = { count: field.collection, query, readConcern: { level: "majority" } };
  const reply = await byIndex(field, (index) => store.db.command({ ...counted, ...index }));
  return Number(reply["n"]);
}
