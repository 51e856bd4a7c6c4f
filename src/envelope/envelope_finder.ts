import { Buffer } from "node:buffer";
import { Decimal128 } from "bson";
import { noBson, TYPE_ARRAY, TYPE_DOCUMENT, TYPE_INT32, TYPE_INT64 } from "./raw_elements.ts";

/**
 * Finds envelopes anywhere in raw BSON, registered or not: every subdocument, at any depth and in arrays, that has both
 * `kek_version` and `wrapped_dek`. Searched as bytes first, so that records without any cost no more than that. Pure.
 */

export interface FoundEnvelope {
  /**
   * The path to it; `[]` stands for a position in an array, and a name with dots in it is quoted: `["a.b"]`. Empty where the record
   * itself has the form of an envelope.
   */
  path: string;
  version: FoundVersion;
  /** Where the subdocument begins and ends in the bytes that were searched. */
  at: number;
  end: number;
}

export interface FoundVersion {
  /** The number that MongoDB compares; NaN for what is no number. */
  number: number;
  type: "int" | "long" | "double" | "decimal" | "other";
}

/** Gets each envelope, and where its record begins and ends. */
type Visit = (found: FoundEnvelope, record: { start: number; end: number }) => void;

/**
 * @param array a BSON array of documents, as MongoDB answers a read.
 * @returns how many documents there are.
 * @throws KekError `envelope_invalid` when it is no BSON.
 */
export function findEnvelopes(array: Uint8Array, visit: Visit): number {
  const bytes = Buffer.from(array.buffer, array.byteOffset, array.byteLength);
  const finder = new Finder(bytes, visit);
  let count = 0;
  for (let at = LENGTH; bytes[at] !== 0; count += 1) {
    const start = endOfName(bytes, at + 1);
    const end = start + lengthAt(bytes, start);
    if (bytes[at] !== TYPE_DOCUMENT || bytes[end - 1] !== 0) throw noBson();
    if (finder.next < end) finder.searchRecord(start, end);
    at = end;
    finder.skipTo(end);
  }
  return count;
}

/** How a version is shown: a number that is no int32 is none that readers of format 1 accept, and shows its type. */
export function versionLabel({ number, type }: FoundVersion): string {
  if (type === "int") return String(number);
  return type === "other" ? "no number" : `${number} (${type})`;
}

// ---------------------------------------------------------------------------------------------------------------------

const VERSION_MEMBER = Buffer.from("kek_version", "latin1");
const OTHER_MEMBER = Buffer.from("wrapped_dek", "latin1");
const NEEDLE = Buffer.concat([VERSION_MEMBER, Buffer.alloc(1)]);
const LENGTH = 4;
const TYPE_CODE_WITH_SCOPE = 0x0f;

class Finder {
  readonly #bytes: Buffer;
  readonly #visit: Visit;
  /** Where the name occurs next; never before what was searched already. */
  next: number;
  #record = { start: 0, end: 0 };

  constructor(bytes: Buffer, visit: Visit) {
    this.#bytes = bytes;
    this.#visit = visit;
    this.next = this.#find(0);
  }

  skipTo(at: number): void {
    if (this.next < at) this.next = this.#find(at);
  }

  searchRecord(start: number, end: number): void {
    this.#record = { start, end };
    this.#search(start, end, "", false);
  }

  /** Goes into those subdocuments only in which the name occurs. */
  #search(start: number, end: number, path: string, isArray: boolean): void {
    const bytes = this.#bytes;
    // Of several members of one name MongoDB and a driver may mean different ones.
    let versions: { type: number; at: number }[] | undefined;
    let wrapped = false;
    for (let at = start + LENGTH; at < end - 1; ) {
      const type = bytes[at] as number;
      const nameAt = at + 1;
      const valueAt = endOfName(bytes, nameAt);
      at = valueAt + sizeOf(bytes, type, valueAt);
      if (at >= end) throw noBson();
      if (isNamed(bytes, nameAt, valueAt, VERSION_MEMBER)) {
        versions ??= [];
        versions.push({ type, at: valueAt });
      } else if (!wrapped) wrapped = isNamed(bytes, nameAt, valueAt, OTHER_MEMBER);
      if (this.next < valueAt) this.next = this.#find(valueAt);
      if (this.next < at && (type === TYPE_DOCUMENT || type === TYPE_ARRAY || type === TYPE_CODE_WITH_SCOPE)) {
        const inner = isArray ? `${path}[]` : joined(path, bytes.toString("utf8", nameAt, valueAt - 1));
        // A scope lies behind the code's own length and text.
        const innerAt =
          type === TYPE_CODE_WITH_SCOPE ? valueAt + 2 * LENGTH + lengthAt(bytes, valueAt + LENGTH) : valueAt;
        this.#search(innerAt, at, inner, type === TYPE_ARRAY);
      }
      // Nothing more of it can be, or hold, an envelope; the other member may still come.
      if (this.next >= end && versions === undefined) return;
      if (this.next >= end && wrapped) break;
    }
    if (!wrapped || versions === undefined) return;
    for (const { type, at } of versions)
      this.#visit({ path, version: versionOf(bytes, type, at), at: start, end }, this.#record);
  }

  #find(from: number): number {
    const at = this.#bytes.indexOf(NEEDLE, from);
    return at < 0 ? Number.POSITIVE_INFINITY : at;
  }
}

function joined(path: string, name: string): string {
  if (name.includes(".")) return `${path}[${JSON.stringify(name)}]`;
  return path === "" ? name : `${path}.${name}`;
}

function isNamed(bytes: Buffer, nameAt: number, valueAt: number, name: Buffer): boolean {
  if (valueAt - 1 - nameAt !== name.length) return false;
  for (let at = 0; at < name.length; at += 1) if (bytes[nameAt + at] !== name[at]) return false;
  return true;
}

function versionOf(bytes: Buffer, type: number, at: number): FoundVersion {
  switch (type) {
    case TYPE_INT32:
      return { number: bytes.readInt32LE(at), type: "int" };
    case TYPE_INT64:
      return { number: Number(bytes.readBigInt64LE(at)), type: "long" };
    case 0x01:
      return { number: bytes.readDoubleLE(at), type: "double" };
    case 0x13:
      return { number: Number(new Decimal128(bytes.subarray(at, at + 16)).toString()), type: "decimal" };
    default:
      return { number: Number.NaN, type: "other" };
  }
}

/** @returns where the value begins. */
function endOfName(bytes: Buffer, at: number): number {
  // Names are short: a call for each of them would cost more than these steps.
  for (let end = at; end < bytes.length; end += 1) if (bytes[end] === 0) return end + 1;
  throw noBson();
}

function lengthAt(bytes: Buffer, at: number): number {
  const length = at + LENGTH <= bytes.length ? bytes.readInt32LE(at) : -1;
  if (length < 0 || at + length > bytes.length) throw noBson();
  return length;
}

/** Bytes of a value, by its type (BSON specification 1.1). */
function sizeOf(bytes: Buffer, type: number, at: number): number {
  switch (type) {
    case 0x01:
    case 0x09:
    case 0x11:
    case 0x12:
      return 8;
    case 0x02:
    case 0x0d:
    case 0x0e:
      return LENGTH + lengthAt(bytes, at);
    case 0x03:
    case 0x04:
    case 0x0f:
      return lengthAt(bytes, at);
    case 0x05:
      return LENGTH + 1 + lengthAt(bytes, at);
    case 0x06:
    case 0x0a:
    case 0x7f:
    case 0xff:
      return 0;
    case 0x07:
      return 12;
    case 0x08:
      return 1;
    case 0x0b:
      return endOfName(bytes, endOfName(bytes, at)) - at;
    case 0x0c:
      return LENGTH + lengthAt(bytes, at) + 12;
    case 0x10:
      return 4;
    case 0x13:
      return 16;
    default:
      throw noBson();
  }
}
