import type { Buffer } from "node:buffer";
import { KekError } from "../errors/errors.ts";
import type { SecretKind } from "./field_types.ts";

/** Where encrypted fields stand in documents, updates and filters. Pure; what it is given stays as it was. */

export interface SecretField {
  path: string;
  kind: SecretKind;
}

type Tree = { [key: string]: unknown };

/** A plaintext and where it stands: the place in what was given, and the field's own path. */
export interface FoundSecret {
  field: SecretField;
  /** Keys from the outside in. */
  at: string[];
  plaintext: Uint8Array | string;
}

/**
 * The plaintexts in a document.
 * @throws KekError `usage` when a field holds something else, or its path leads through an array.
 */
export function secretsIn(document: object, fields: SecretField[]): FoundSecret[] {
  return fields.flatMap((field) => foundAt(document, field.path.split("."), field));
}

/**
 * The plaintexts in an update, under $set and $setOnInsert.
 * @throws KekError `usage` when an encrypted field is touched in another way: by a pipeline, an operator that computes, in part.
 */
export function secretsInUpdate(update: object, fields: SecretField[]): FoundSecret[] {
  if (Array.isArray(update)) throw usage("an update that is a pipeline", "give $set and other operators instead");
  return Object.entries(update as Tree).flatMap(([operator, changes]) =>
    Object.entries((changes ?? {}) as Tree).flatMap(([key, value]) => {
      const named = [key, ...(operator === "$rename" ? [String(value)] : [])];
      const touched = fields.filter(({ path }) => named.some((name) => related(name, path)));
      const through = fields.find(({ path }) => named.some((name) => reachesThroughArray(name, path)));
      if (through !== undefined)
        throw usage(`${operator} of ${key}, in an array on the way to ${through.path},`, NO_ARRAY);
      return touched.flatMap((field) => {
        if (isWithin(key, field.path))
          throw usage(`${operator} of ${key}, a part of an envelope,`, `set ${field.path}`);
        if (operator === "$unset") return [];
        if (operator !== "$set" && operator !== "$setOnInsert")
          throw usage(
            `${operator} of ${key}, where ${field.path} is encrypted,`,
            "read the record, and $set the new value",
          );
        const inside = key === field.path ? [] : field.path.slice(key.length + 1).split(".");
        return foundAt({ [key]: value }, [key, ...inside], field).map((found) => ({
          ...found,
          at: [operator, ...found.at],
        }));
      });
    }),
  );
}

/**
 * Nothing is found by a secret's value, since each envelope is another; what would find nothing is refused. Whether a field
 * is there may be asked, and what stands open in the envelope.
 * @throws KekError `usage`.
 */
export function refuseSearched(filter: object, fields: SecretField[]): void {
  for (const [key, condition] of Object.entries(filter as Tree)) {
    if (["$and", "$or", "$nor"].includes(key) && Array.isArray(condition)) {
      for (const part of condition) refuseSearched(part as object, fields);
      continue;
    }
    const searched = fields.find(({ path }) => key === path || path.startsWith(`${key}.`));
    if (searched === undefined || condition === null) continue;
    if (isTree(condition) && Object.keys(condition).every((operator) => operator === "$exists")) continue;
    throw usage(
      `a search by ${key}, where ${searched.path} is encrypted,`,
      "search by another field, for example a keyed hash of the value that you store beside it",
    );
  }
}

/** A copy in which each found plaintext is replaced. */
export function withReplaced<T extends object>(document: T, found: FoundSecret[], values: unknown[]): T {
  return found.reduce<T>((copy, { at }, index) => replaced(copy, at, values[index]) as T, document);
}

/** What stands at each encrypted field of a record that was read; fields that are not there, or null, are left out. */
export function envelopesIn(
  record: object,
  fields: SecretField[],
): { field: SecretField; at: string[]; stored: unknown }[] {
  return fields.flatMap((field) => {
    const at = field.path.split(".");
    const stored = at.reduce<unknown>((inner, key) => (isTree(inner) ? inner[key] : undefined), record);
    return stored === undefined || stored === null ? [] : [{ field, at, stored }];
  });
}

/** A copy of a record with plaintexts in place of envelopes. @throws KekError `usage` when a text's bytes are no UTF-8. */
export function opened(record: object, places: { field: SecretField; at: string[] }[], plaintexts: Buffer[]): object {
  return places.reduce(
    (copy, { field, at }, index) => replaced(copy, at, plaintextOf(field, plaintexts[index] as Buffer)) as object,
    record,
  );
}

/** @throws KekError `usage`, in one form for all that is refused here. */
export function usage(what: string, hint: string): KekError {
  return new KekError("usage", `${what} is not done on encrypted fields`, hint);
}

// ---------------------------------------------------------------------------------------------------------------------

function foundAt(document: object, at: string[], field: SecretField): FoundSecret[] {
  let value: unknown = document;
  for (const [depth, key] of at.entries()) {
    if (value === undefined || value === null) return [];
    if (!isPlain(value))
      throw new KekError("usage", `${field.path} leads through a value that is no subdocument`, FORM);
    refuseDotted(value, key, at.slice(depth).join("."), field);
    value = value[key];
  }
  if (value === undefined || value === null) return [];
  const fits = field.kind === "text" ? typeof value === "string" : value instanceof Uint8Array;
  // The value itself is a secret: it is not quoted.
  if (!fits) throw new KekError("usage", `${field.path} is declared "${field.kind}" and is given something else`, FORM);
  return [{ field, at, plaintext: value as Uint8Array | string }];
}

/** The driver stores a key with dots in it as it is: a plaintext under it would be passed by. */
function refuseDotted(tree: Tree, expected: string, path: string, field: SecretField): void {
  const dotted = Object.keys(tree).find((key) => key !== expected && key.includes(".") && related(key, path));
  if (dotted === undefined) return;
  const what = `the key ${dotted} has dots in it, where ${field.path} is encrypted`;
  throw new KekError("usage", what, "in a document give subdocuments; dots are for the keys of an update");
}

const NO_ARRAY = "encrypted fields stand in subdocuments, not in arrays: an envelope belongs to one path of one record";
const FORM = 'give plaintext: a string where the field is declared "text", a Uint8Array where it is "bytes"';

function plaintextOf({ path, kind }: SecretField, bytes: Buffer): Buffer | string {
  if (kind === "bytes") return bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new KekError("usage", `${path} holds bytes that are no text in UTF-8`, `declare ${path} as "bytes"`);
  }
}

function replaced(document: unknown, [key, ...rest]: string[], value: unknown): unknown {
  if (key === undefined) return value;
  const tree = document as Tree;
  return { ...tree, [key]: replaced(tree[key], rest, value) };
}

function isWithin(key: string, path: string): boolean {
  return key.startsWith(`${path}.`);
}

function related(key: string, path: string): boolean {
  return key === path || isWithin(key, path) || isWithin(path, key);
}

/** Whether a path of an update leads to an encrypted one by way of an array's items: `keys.0.pem`, `keys.$[].pem`. */
function reachesThroughArray(key: string, path: string): boolean {
  const plain = key.split(".").filter((part) => !/^(\d+|\$(\[.*\])?)$/.test(part));
  return !related(key, path) && plain.length > 0 && plain.join(".") !== key && related(plain.join("."), path);
}

/** What the driver stores as the members that it shows: of a Map, or a class with a form of its own, it stores others. */
function isPlain(value: unknown): value is Tree {
  return isTree(value) && !(value instanceof Map) && typeof value["toBSON"] !== "function";
}

function isTree(value: unknown): value is Tree {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}
