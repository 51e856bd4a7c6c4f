import { Buffer } from "node:buffer";
import { exactId, idBsonOf } from "../envelope/raw_record.ts";
import { recordIdBson } from "../envelope/record_id.ts";
import { KekError } from "../errors/errors.ts";
import type { DriverCollection, DriverOptions } from "./driver_types.ts";

/**
 * An envelope is bound to its record's `_id` byte for byte, and MongoDB finds a record by other bytes too: 5 as an int32, an
 * int64 or a double, text by a collation. So where an `_id` has more than one form, the stored one is asked for.
 */

/** Whether no other bytes are equal to this `_id` for MongoDB: an ObjectId, a UUID or other bytes. */
export function isOneForm(id: unknown): boolean {
  const type = (id as { _bsontype?: unknown } | null | undefined)?._bsontype;
  return type === "ObjectId" || type === "ObjectID" || type === "Binary" || id instanceof Uint8Array;
}

/** Whether a driver may have read this `_id` from other bytes than it would write: it makes numbers of int64 and double. */
export function canBeReadOtherwise(id: unknown): boolean {
  return typeof id === "number" || (typeof id === "object" && id !== null && !isOneForm(id) && !(id instanceof Date));
}

export function sameId(one: unknown, other: unknown): boolean {
  return Buffer.from(recordIdBson(one)).equals(recordIdBson(other));
}

/** The `_id` as it is stored, of the very BSON types; undefined when there is no such record. */
export async function storedIdOf(collection: DriverCollection, id: unknown, options: DriverOptions): Promise<unknown> {
  const { session } = options;
  const raw = await collection.findOne(
    { _id: id },
    { raw: true, projection: { _id: 1 }, readPreference: "primary", ...(session === undefined ? {} : { session }) },
  );
  if (raw === null) return undefined;
  if (!(raw instanceof Uint8Array))
    throw new KekError("unexpected", "the driver gives no raw BSON", "use the mongodb driver 5 or newer");
  return exactId(idBsonOf(raw));
}
