/** Types for the user's documents: which paths may be declared encrypted, and what is given and read there. */

/** `"text"` is a string, stored as UTF-8; `"bytes"` is a Uint8Array, and comes back as a Buffer. */
export type SecretKind = "text" | "bytes";

/** Encrypted fields by path, as `{ token: "text", "key.pem": "text", "key.der": "bytes" }`. */
export type SecretFields<T> = {
  readonly [P in PathTo<T, string> | PathTo<T, Uint8Array>]?:
    | (P extends PathTo<T, string> ? "text" : never)
    | (P extends PathTo<T, Uint8Array> ? "bytes" : never);
};

/** Documents of no declared type. */
// biome-ignore lint/suspicious/noExplicitAny: as the driver has it, any path may be named and any value given
export type Loose = { [field: string]: any };

/** A record's `_id` as the document type has it. */
export type IdOf<T> = T extends { _id: infer Id } ? Id : unknown;

/** A record that is to be inserted: `_id` may be left out. */
export type NewRecord<T> = Omit<T, "_id"> & { _id?: IdOf<T> };

/** A record as it is read. */
export type StoredRecord<T> = Omit<T, "_id"> & { _id: IdOf<T> };

/** Exactly one record: `_id` itself, no operator, beside whatever else must hold of it. */
export interface OneRecord<T> {
  _id: IdOf<T>;
  [field: string]: unknown;
}

/** Update operators. Encrypted fields may stand in `$set`, `$setOnInsert` (as plaintext) and `$unset`. */
export interface FieldChanges<T> {
  $set?: Partial<T> & { [path: string]: unknown };
  $setOnInsert?: Partial<T> & { [path: string]: unknown };
  $unset?: { [path: string]: unknown };
  [operator: `$${string}`]: object | undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

type IsAny<T> = 0 extends 1 & T ? true : false;

/** What no path leads through. */
type Leaf =
  | string
  | number
  | bigint
  | boolean
  | symbol
  | Date
  | RegExp
  | Uint8Array
  | readonly unknown[]
  | { _bsontype: string };

/** Paths in T, dots leading through subdocuments, at which there is a value of type V. */
type PathTo<T, V> = {
  [K in keyof T & string]-?: IsAny<T[K]> extends true
    ? K | `${K}.${string}`
    : K extends "_id"
      ? never
      : NonNullable<T[K]> extends V
        ? K
        : NonNullable<T[K]> extends Leaf
          ? never
          : `${K}.${PathTo<NonNullable<T[K]>, V>}`;
}[keyof T & string];
