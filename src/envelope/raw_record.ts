import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { deserialize, EJSON, serialize } from "bson";
import { KekError } from "../errors/errors.ts";
import { WRAP_BYTES } from "./gcm.ts";
import { damagedEnvelope } from "./not_envelope.ts";
import {
  decodeText,
  type Element,
  elements,
  nameOf,
  noBson,
  readInt32,
  TYPE_ARRAY,
  TYPE_BINARY,
  TYPE_DOCUMENT,
  TYPE_INT32,
  TYPE_INT64,
  TYPE_OBJECT_ID,
  TYPE_STRING,
  typeName,
} from "./raw_elements.ts";

/**
 * Reads a record's `_id` and wrap from raw BSON. An `_id` is bound into the AAD byte for byte, and a decoded value does
 * not always encode to the same bytes (a double 5.0 becomes an int32, keys like "10" move to the front), so it is cut out.
 */

/** What a rewrap needs of an envelope. */
export interface RawWrap {
  provider: string;
  version: number;
  wrappedDek: Uint8Array;
}

/** Text, which is decoded strictly, ObjectId, boolean, int32 and int64: they always encode to what they came from. */
const SURE = new Set([TYPE_STRING, TYPE_OBJECT_ID, 0x08, TYPE_INT32, TYPE_INT64]);
/** A length and the zero at the end. */
const SHORTEST_DOCUMENT = 5;
const LONGEST_NAME = 1000;

/** The bytes of `{_id: …}` of a raw document. @throws KekError `envelope_invalid` for what is no record. */
export function idBsonOf(raw: Uint8Array): Uint8Array {
  const id = elements(raw, 0).find((element) => nameOf(raw, element) === "_id");
  if (id === undefined) throw new KekError("envelope_invalid", "the record has no _id", "this is no MongoDB record");
  const start = id[1] - 1;
  const end = id[3] + id[4];
  const out = Buffer.alloc(4 + (end - start) + 1);
  out.writeInt32LE(out.length, 0);
  out.set(raw.subarray(start, end), 4);
  return out;
}

/**
 * Decodes `{_id: …}` into a value that encodes to the same bytes: no promotion, and key order kept by Maps.
 * @throws KekError `envelope_invalid` when there is no such value: text that is no UTF-8, BSON's deprecated types.
 */
export function exactId(idBson: Uint8Array): unknown {
  const element = elements(idBson, 0)[0] as Element;
  try {
    const id = exactValue(idBson, element);
    if (SURE.has(element[0]) || Buffer.from(serialize({ _id: id })).equals(idBson)) return id;
  } catch {
    // What cannot be decoded cannot be written back either.
  }
  throw new KekError(
    "envelope_invalid",
    "its _id cannot be named to MongoDB byte for byte",
    "give the record an _id of a plain BSON type: copy it under another one, encrypted again",
  );
}

/**
 * How a record is named to people: its `_id` as `idText` has it, or in hex when it cannot be decoded. One that is long is cut,
 * and told apart from others that begin alike.
 */
export function idTextOf(idBson: Uint8Array): string {
  const text = idTextInFull(idBson);
  if (text.length <= LONGEST_NAME) return text;
  return `${text.slice(0, LONGEST_NAME)}… (SHA-256 ${createHash("sha256").update(idBson).digest("hex")})`;
}

/** An `_id` for people and programs: canonical extended JSON, its keys in the order in which they are stored. */
export function idText(id: unknown): string {
  if (id instanceof Map) {
    return `{${[...id].map(([key, value]) => `${JSON.stringify(key)}:${idText(value)}`).join(",")}}`;
  }
  if (Array.isArray(id)) return `[${id.map(idText).join(",")}]`;
  return EJSON.stringify(id, { relaxed: false });
}

/**
 * @param path the field's path; dots lead through subdocuments.
 * @throws KekError `envelope_invalid`, saying what is wrong.
 */
export function readWrap(raw: Uint8Array, path: string): RawWrap {
  let at = 0;
  for (const name of path.split(".")) {
    const [element, twin] = elements(raw, at).filter((candidate) => nameOf(raw, candidate) === name);
    if (element === undefined) throw damagedEnvelope(`there is nothing at ${path}`);
    // MongoDB's index may have found the other one.
    if (twin !== undefined) throw damagedEnvelope(`${name} of ${path} is there twice`);
    if (element[0] !== TYPE_DOCUMENT) throw damagedEnvelope(`${path} is not a subdocument`);
    at = element[3];
  }
  let provider: string | undefined;
  let version: number | undefined;
  let wrappedDek: Uint8Array | undefined;
  /** Name → what is there, for people. */
  const seen = new Map<string, string>();
  for (const element of elements(raw, at)) {
    const [type, , , offset] = element;
    const name = nameOf(raw, element);
    // Of two members of one name, who can say which one MongoDB would change?
    if (seen.has(name)) throw damagedEnvelope(`it has ${name} twice`);
    seen.set(name, type === TYPE_BINARY ? `BinData of subtype ${raw[offset + 4]}` : typeName(type));
    switch (name) {
      case "provider":
        if (type === TYPE_STRING) provider = decodeText(raw, offset + 4, readInt32(raw, offset) - 1);
        break;
      case "kek_version":
        if (type === TYPE_INT32) version = readInt32(raw, offset);
        break;
      case "wrapped_dek":
        if (type === TYPE_BINARY && raw[offset + 4] === 0)
          wrappedDek = raw.subarray(offset + 5, offset + 5 + readInt32(raw, offset));
        break;
    }
  }
  const not = (wanted: string, name: string) => {
    const found = seen.get(name);
    return damagedEnvelope(found === undefined ? `it has no ${name}` : `its ${name} is ${found}, not ${wanted}`);
  };
  if (provider === undefined) throw not("a string", "provider");
  // MongoDB finds a double, an int64 and a decimal128 of the same value as well.
  if (version === undefined) throw not("an int32", "kek_version");
  if (wrappedDek === undefined) throw not("BinData of subtype 0", "wrapped_dek");
  if (wrappedDek.length !== WRAP_BYTES)
    throw damagedEnvelope(`its wrapped_dek has ${wrappedDek.length} bytes, not ${WRAP_BYTES}`);
  return { provider, version, wrappedDek };
}

/** Splits documents that lie one behind the other. @throws KekError `envelope_invalid` when a length cannot be right. */
export function* splitDocuments(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; ) {
    const length = at + SHORTEST_DOCUMENT > bytes.length ? 0 : readInt32(bytes, at);
    if (length < SHORTEST_DOCUMENT || at + length > bytes.length) throw noBson();
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function idTextInFull(idBson: Uint8Array): string {
  try {
    return idText(exactId(idBson));
  } catch {
    return `BSON ${Buffer.from(idBson).toString("hex")}`;
  }
}

function exactValue(raw: Uint8Array, element: Element): unknown {
  const [type, nameOffset, , offset, length] = element;
  if (type === TYPE_DOCUMENT) {
    return new Map(elements(raw, offset).map((inner) => [nameOf(raw, inner), exactValue(raw, inner)]));
  }
  if (type === TYPE_ARRAY) return elements(raw, offset).map((inner) => exactValue(raw, inner));
  const body = raw.subarray(nameOffset - 1, offset + length);
  const single = Buffer.alloc(body.length + 5);
  single.writeInt32LE(single.length, 0);
  single.set(body, 4);
  return Object.values(
    deserialize(single, { promoteValues: false, promoteLongs: false, promoteBuffers: false, bsonRegExp: true }),
  )[0];
}
