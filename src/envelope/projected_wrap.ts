import { Buffer } from "node:buffer";
import { Binary, Int32, serialize } from "bson";
import { WRAP_BYTES } from "./gcm.ts";
import {
  ID_NAME,
  ID_VALUE_AT,
  LENGTH_BYTES,
  readInt32,
  TYPE_INT32,
  TYPE_INT64,
  TYPE_OBJECT_ID,
  TYPE_STRING,
} from "./raw_elements.ts";
import { idBsonOf, type RawWrap, readWrap } from "./raw_record.ts";

/**
 * Records as a rewrap reads them, `{_id, <path>: {provider, kek_version, wrapped_dek}}`, are all alike but for the `_id` and
 * the 60 bytes of the wrap. So each is compared with what it should look like, byte for byte, and cut; whatever looks
 * different in any way is read by `raw_record.ts`, which says what is wrong with it. A million records notice.
 */

export interface ProjectedWrap extends RawWrap {
  /** The bytes of `{_id: …}`. */
  idBson: Uint8Array;
}

/** @returns a reader for records of one field at one version; it throws KekError `envelope_invalid` as `readWrap` does. */
export function projectedWrapReader(
  path: string,
  provider: string,
  version: number,
): (raw: Uint8Array) => ProjectedWrap {
  const envelope = {
    provider,
    kek_version: new Int32(version),
    wrapped_dek: new Binary(new Uint8Array(WRAP_BYTES), 0),
  };
  const names = path.split(".");
  const nested = names.reduceRight<object>((inner, name) => ({ [name]: inner }), envelope);
  /** All that follows the `_id`. */
  const tail = serialize(nested).subarray(LENGTH_BYTES);
  /** The wrap ends where the documents around it do: a zero byte each. */
  const wrapAt = tail.length - (names.length + 1) - WRAP_BYTES;
  return (raw) => {
    const idEnd = raw.length - tail.length;
    if (idEnd > ID_VALUE_AT && isId(raw, idEnd) && isTail(raw, idEnd, tail, wrapAt)) {
      const wrappedDek = raw.subarray(idEnd + wrapAt, idEnd + wrapAt + WRAP_BYTES);
      return { provider, version, wrappedDek, idBson: idDocument(raw, idEnd) };
    }
    return { ...readWrap(raw, path), idBson: idBsonOf(raw) };
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** ObjectId, int32 and int64, in bytes. */
const SIZES: Record<number, number> = { [TYPE_OBJECT_ID]: 12, [TYPE_INT32]: 4, [TYPE_INT64]: 8 };

/** Whether all between the length and `end` is one element `_id` of a common type. */
function isId(raw: Uint8Array, end: number): boolean {
  if (readInt32(raw, 0) !== raw.length) return false;
  for (let at = 0; at < ID_NAME.length; at += 1) if (raw[LENGTH_BYTES + 1 + at] !== ID_NAME[at]) return false;
  const type = raw[LENGTH_BYTES] as number;
  const size = end - ID_VALUE_AT;
  if (type !== TYPE_STRING) return SIZES[type] === size;
  return size > LENGTH_BYTES && readInt32(raw, ID_VALUE_AT) === size - LENGTH_BYTES && raw[end - 1] === 0;
}

function isTail(raw: Uint8Array, start: number, tail: Uint8Array, wrapAt: number): boolean {
  for (let at = 0; at < wrapAt; at += 1) if (raw[start + at] !== tail[at]) return false;
  for (let at = wrapAt + WRAP_BYTES; at < tail.length; at += 1) if (raw[start + at] !== tail[at]) return false;
  return true;
}

function idDocument(raw: Uint8Array, end: number): Uint8Array {
  const out = Buffer.allocUnsafe(end + 1);
  out.set(raw.subarray(0, end), 0);
  out.writeInt32LE(out.length, 0);
  out[end] = 0;
  return out;
}
