import { Buffer } from "node:buffer";
import { onDemand } from "bson";
import { KekError } from "../errors/errors.ts";

/** The elements of a raw BSON document, found without decoding what is in them. */

export const TYPE_STRING = 0x02;
export const TYPE_DOCUMENT = 0x03;
export const TYPE_ARRAY = 0x04;
export const TYPE_BINARY = 0x05;
export const TYPE_UNDEFINED = 0x06;
export const TYPE_OBJECT_ID = 0x07;
export const TYPE_NULL = 0x0a;
export const TYPE_INT32 = 0x10;
export const TYPE_INT64 = 0x12;

/** How a value of each type is named to people. */
const TYPE_NAMES: Readonly<Record<number, string>> = {
  1: "a double",
  [TYPE_STRING]: "a string",
  [TYPE_DOCUMENT]: "a subdocument",
  [TYPE_ARRAY]: "an array",
  [TYPE_BINARY]: "BinData",
  [TYPE_UNDEFINED]: "undefined",
  [TYPE_OBJECT_ID]: "an ObjectId",
  8: "a boolean",
  9: "a date",
  [TYPE_NULL]: "null",
  11: "a regular expression",
  13: "JavaScript",
  14: "a symbol",
  [TYPE_INT32]: "an int32",
  17: "a timestamp",
  [TYPE_INT64]: "an int64",
  19: "a decimal128",
};

/** @param type BSON's type byte. */
export function typeName(type: number): string {
  return TYPE_NAMES[type] ?? `of BSON type ${type}`;
}

/** Of a document before its first element. */
export const LENGTH_BYTES = 4;
/** The name `_id` with its zero. */
export const ID_NAME = new Uint8Array([0x5f, 0x69, 0x64, 0]);
/** Where the value of a document's first element is, when that is `_id`: after the length, the type and the name. */
export const ID_VALUE_AT = LENGTH_BYTES + 1 + ID_NAME.length;

/** Type, offset and length of the name, offset and length of the value. */
export type Element = ReturnType<typeof onDemand.parseToElements> extends Iterable<infer E> ? E : never;

/** @param at where the document begins. @throws KekError `envelope_invalid` for what is no BSON. */
export function elements(raw: Uint8Array, at: number): Element[] {
  try {
    return [...onDemand.parseToElements(raw, at)];
  } catch {
    throw noBson();
  }
}

export function noBson(): KekError {
  return new KekError("envelope_invalid", "the record is no BSON", "MongoDB's answer was damaged: check its hosts");
}

export function nameOf(raw: Uint8Array, [, nameOffset, nameLength]: Element): string {
  return decodeText(raw, nameOffset, nameLength);
}

export function readInt32(raw: Uint8Array, at: number): number {
  return (
    (raw[at] as number) |
    ((raw[at + 1] as number) << 8) |
    ((raw[at + 2] as number) << 16) |
    ((raw[at + 3] as number) << 24)
  );
}

export function decodeText(raw: Uint8Array, at: number, length: number): string {
  return Buffer.from(raw.buffer, raw.byteOffset + at, length).toString("utf8");
}
