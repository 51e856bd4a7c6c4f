import type { Binary, Document } from "mongodb";
import type { ValidatorOptions } from "../protocol/documents.ts";
import type { Store } from "./store.ts";
import { validatorIn } from "./validators.ts";

/** What collections there are: a name alone says nothing, for it may be another collection's by now. */

export interface CollectionInfo {
  name: string;
  type: "collection" | "view" | "timeseries";
  /** The collection's own identity in hex: a rename keeps it, dropping and creating it again does not. Views have none. */
  uuid: string | undefined;
  capped: boolean;
  validator: ValidatorOptions;
}

/** MongoDB's own: definitions of views, buckets of time series (which are read through their name), profiles. */
const INTERNAL = /^system\.(views$|buckets\.|profile$)/;

/**
 * Every collection of the install's database, without MongoDB's own.
 * @param names only these; without it, all.
 */
export async function readCollections(store: Store, names?: string[]): Promise<CollectionInfo[]> {
  const filter = names === undefined ? {} : { name: { $in: [...new Set(names)] } };
  const listed = await store.db.listCollections(filter, { nameOnly: false }).toArray();
  return listed
    .filter(({ name }) => !INTERNAL.test(name))
    .map((entry) => {
      const { name, type, info, options } = entry as Document;
      const uuid = (info as { uuid?: Binary } | undefined)?.uuid;
      return {
        name,
        type,
        uuid: uuid?.toString("hex"),
        capped: options?.capped === true,
        validator: validatorIn(options),
      };
    });
}

/**
 * Why a collection cannot hold envelopes: what a rotation could not rewrite, or MongoDB could not fence.
 * @returns the reason in words; undefined when nothing is wrong. Pure.
 */
export function collectionFault({ type, capped }: Pick<CollectionInfo, "type" | "capped">): string | undefined {
  if (type === "view") return "it is a view: a rotation could not rewrite its records";
  if (type === "timeseries") return "it is a time series collection: MongoDB updates no single measurement in it";
  if (capped) return "it is a capped collection: MongoDB deletes its oldest records, and limits updates to the rest";
  return undefined;
}
