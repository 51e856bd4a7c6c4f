import { Buffer } from "node:buffer";
import { KekError } from "../errors/errors.ts";
import {
  type Element,
  elements,
  nameOf,
  readInt32,
  TYPE_ARRAY,
  TYPE_BINARY,
  TYPE_DOCUMENT,
  TYPE_NULL,
  TYPE_STRING,
  TYPE_UNDEFINED,
} from "./raw_elements.ts";

/** The fields of a record in its raw BSON, and a record in which they hold something else: no other byte changes. */

export interface RawField {
  path: string;
  /** BSON's type byte. */
  type: number;
  /** The value's bytes, a view of the record. */
  value: Uint8Array;
  /** Where its type byte and its value begin. */
  typeAt: number;
  valueAt: number;
  /** Where each document around it begins, the record itself first. */
  around: number[];
}

export interface NewValue {
  field: RawField;
  type: number;
  value: Uint8Array;
}

/**
 * What is at these paths, in the order in which it lies in the record; what is not there is left out.
 * @throws KekError `envelope_invalid` where MongoDB and this program could mean different fields: a name twice in one document,
 * an array on the way, a field within another.
 */
export function fieldsIn(raw: Uint8Array, paths: readonly string[]): RawField[] {
  const parsed = new Map<number, Element[]>();
  const elementsAt = (at: number) => {
    const known = parsed.get(at) ?? elements(raw, at);
    parsed.set(at, known);
    return known;
  };
  const found = paths.flatMap((path) => locate(raw, path, elementsAt) ?? []);
  found.sort((one, other) => one.typeAt - other.typeAt);
  found.forEach((field, index) => {
    const next = found[index + 1];
    if (next !== undefined && next.typeAt < field.valueAt + field.value.length)
      throw bad(`${next.path} lies within ${field.path}`);
  });
  return found;
}

/** Whether there is nothing in a field that could be a secret. */
export function isVoid({ type, value }: RawField): boolean {
  return type === TYPE_NULL || type === TYPE_UNDEFINED || (type === TYPE_STRING && value.length === EMPTY_STRING_BYTES);
}

/** The bytes of BinData of subtype 0, a view; undefined when something else is there. */
export function binaryOf({ type, value }: RawField): Uint8Array | undefined {
  return type === TYPE_BINARY && value[4] === 0 ? value.subarray(5) : undefined;
}

/** A field's new value: BinData of subtype 0. */
export function toBinary(field: RawField, bytes: Uint8Array): NewValue {
  const value = Buffer.alloc(5 + bytes.length);
  value.writeInt32LE(bytes.length, 0);
  value.set(bytes, 5);
  return { field, type: TYPE_BINARY, value };
}

/** @param document the value as a whole BSON document. */
export function toDocument(field: RawField, document: Uint8Array): NewValue {
  return { field, type: TYPE_DOCUMENT, value: document };
}

/** The record with other values in these fields. @param values in the order in which `fieldsIn` gave their fields. */
export function withValues(raw: Uint8Array, values: readonly NewValue[]): Buffer {
  const growth = values.map(({ field, value }) => value.length - field.value.length);
  const out = Buffer.alloc(raw.length + growth.reduce((sum, bytes) => sum + bytes, 0));
  const grownAround = new Map<number, number>();
  let from = 0;
  let to = 0;
  values.forEach(({ field, type, value }, index) => {
    const { typeAt, valueAt, around } = field;
    out.set(raw.subarray(from, valueAt), to);
    to += valueAt - from;
    out[to - (valueAt - typeAt)] = type;
    out.set(value, to);
    to += value.length;
    from = valueAt + field.value.length;
    for (const at of around) grownAround.set(at, (grownAround.get(at) ?? 0) + (growth[index] as number));
  });
  out.set(raw.subarray(from), to);
  for (const [at, grown] of grownAround) {
    const before = values.reduce(
      (sum, { field }, index) => (field.valueAt < at ? sum + (growth[index] as number) : sum),
      0,
    );
    out.writeInt32LE(readInt32(raw, at) + grown, at + before);
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------------------

/** A length and the zero at the end. */
const EMPTY_STRING_BYTES = 5;

function locate(raw: Uint8Array, path: string, elementsAt: (at: number) => Element[]): RawField | undefined {
  const names = path.split(".");
  const around = [0];
  for (let depth = 0; ; depth += 1) {
    const at = around[depth] as number;
    const [element, twin] = elementsAt(at).filter((candidate) => nameOf(raw, candidate) === names[depth]);
    if (element === undefined) return undefined;
    if (twin !== undefined) throw bad(`${names.slice(0, depth + 1).join(".")} is there twice`);
    const [type, nameOffset, , offset, length] = element;
    if (depth === names.length - 1) {
      const value = raw.subarray(offset, offset + length);
      return { path, type, value, typeAt: nameOffset - 1, valueAt: offset, around };
    }
    if (type === TYPE_ARRAY && leadsOn(raw, offset, names.slice(depth + 1)))
      throw bad(`${names.slice(0, depth + 1).join(".")} is an array, and no envelope lies in one`);
    if (type !== TYPE_DOCUMENT) return undefined;
    around.push(offset);
  }
}

/** Whether a path finds something below an array, as MongoDB reads paths: in any of its subdocuments, or by position. */
function leadsOn(raw: Uint8Array, at: number, names: string[]): boolean {
  const [name, ...rest] = names;
  return elements(raw, at).some((element) => {
    const [type, , , offset] = element;
    const held = nameOf(raw, element) === name;
    if (held && rest.length === 0) return true;
    if (type !== TYPE_DOCUMENT && type !== TYPE_ARRAY) return false;
    return (held && leadsOn(raw, offset, rest)) || leadsOn(raw, offset, names);
  });
}

function bad(reason: string): KekError {
  return new KekError("envelope_invalid", reason, "put the record right: a field that holds envelopes is a plain one");
}
