import type { FieldName } from "../config/config.ts";
import { fieldId, versionKey } from "./fields.ts";
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
  const key = versionKey(field.path);
  const reply = await store.db.command({
    count: field.collection,
    query: { [key]: version },
    hint: { [key]: 1, _id: 1 },
    readConcern: { level: "majority" },
  });
  return Number(reply["n"]);
}

/** Every field at every version that occurs. */
export async function takeCensus(store: Store, fields: FieldName[]): Promise<CensusRow[]> {
  const rows: CensusRow[] = [];
  for (const field of fields) {
    const key = versionKey(field.path);
    const versions = await store.db.collection(field.collection).distinct(key);
    for (const version of versions) {
      if (version === null || version === undefined) continue;
      const reply = await store.db.command({
        count: field.collection,
        query: { [key]: version },
        hint: { [key]: 1, _id: 1 },
        readConcern: { level: "majority" },
      });
      rows.push({ field: fieldId(field), version: String(version), count: Number(reply["n"]) });
    }
  }
  return rows;
}
