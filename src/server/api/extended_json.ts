import { Buffer } from "node:buffer";
import { Binary, Decimal128, Double, Int32, Long, ObjectId, Timestamp } from "bson";
import * as v from "valibot";

/**
 * BSON values as MongoDB Extended JSON v2, strictly: what is read here is byte for byte what a driver stores, or it is
 * refused. A plain JSON number must be a whole number that fits an int32, which it then is: about all others drivers
 * differ, so they are written out ($numberLong, $numberDouble, $numberDecimal).
 */

const MAX_INT32 = "2147483647";
const MAX_INT64 = "9223372036854775807";

/** Not valibot's base64(): for 8 MiB its regular expression takes four seconds under Bun, and Deno's whole stack. */
export const base64 = v.pipe(
  v.string(),
  v.rawTransform<string, Buffer>(({ dataset, addIssue, NEVER }) => {
    const bytes = bytesOf(dataset.value);
    if (bytes !== undefined) return bytes;
    addIssue({ message: "is not base64 with padding, without line breaks" });
    return NEVER;
  }),
);
/** What `base64` accepts, for documents. */
export const BASE64_PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/** An int32, plain or as `$numberInt`. */
export const int32 = v.union([
  v.pipe(v.number(), v.integer(), v.minValue(-2_147_483_648), v.maxValue(2_147_483_647)),
  v.pipe(
    v.strictObject({ $numberInt: whole(MAX_INT32, "2147483648") }),
    v.transform(({ $numberInt }) => Number($numberInt)),
  ),
]);

export const binary = v.pipe(
  v.strictObject({
    $binary: v.strictObject({ base64, subType: v.pipe(v.string(), v.regex(/^[0-9a-fA-F]{1,2}$/)) }),
  }),
  v.transform(({ $binary }) => new Binary($binary.base64, Number.parseInt($binary.subType, 16))),
);

export type IdValue =
  | string
  | boolean
  | null
  | Int32
  | Long
  | Double
  | Decimal128
  | ObjectId
  | Binary
  | Date
  | Timestamp
  | IdValue[]
  | { [name: string]: IdValue };

/** Not a number: objects of integer-like names are given another order by JSON's parsers, and the order is part of an _id. */
const name = v.pipe(
  v.string(), // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what BSON and MongoDB forbid in a name
  v.regex(/^(?!(0|[1-9][0-9]*|__proto__|prototype|constructor)$)[^$\u0000][^\u0000]*$/),
);

export const subdocument = v.record(
  name,
  v.lazy((): v.GenericSchema<unknown, IdValue> => idPart),
);
const noValue = v.never();

const ID_ALTERNATIVES = [
  v.string(),
  v.pipe(
    v.strictObject({ $oid: text(/^[0-9a-fA-F]{24}$/) }),
    v.transform(({ $oid }) => ObjectId.createFromHexString($oid)),
  ),
  v.pipe(
    int32,
    v.transform((value) => new Int32(value)),
  ),
  binary,
  v.pipe(
    v.strictObject({ $uuid: text(/^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$/) }),
    // Not new UUID(): it wants to know the version and variant, which MongoDB does not.
    v.transform(({ $uuid }) => new Binary(Buffer.from($uuid.replaceAll("-", ""), "hex"), Binary.SUBTYPE_UUID)),
  ),
  v.pipe(
    v.strictObject({ $numberLong: whole(MAX_INT64, "9223372036854775808") }),
    v.transform(({ $numberLong }) => Long.fromString($numberLong)),
  ),
  v.pipe(
    v.strictObject({
      $numberDouble: text(/^(-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?|-?Infinity|NaN)$/),
    }),
    v.transform(({ $numberDouble }) => new Double(Number($numberDouble))),
  ),
  v.pipe(
    v.strictObject({
      $numberDecimal: text(/^(-?([0-9]{1,34}|[0-9]{1,17}\.[0-9]{1,17})([eE][+-]?[0-9]{1,3})?|-?Infinity|NaN)$/),
    }),
    v.transform(({ $numberDecimal }) => Decimal128.fromString($numberDecimal)),
  ),
  v.pipe(
    v.strictObject({ $date: v.strictObject({ $numberLong: text(/^(0|-?[1-9][0-9]{0,14})$/) }) }),
    v.transform(({ $date }) => new Date(Number($date.$numberLong))),
  ),
  v.pipe(
    v.strictObject({
      $date: text(
        /^[0-9]{4}-((0[13578]|1[02])-31|(0[13-9]|1[0-2])-(29|30)|(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8]))T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,3})?Z$/,
      ),
    }),
    v.transform(({ $date }) => new Date($date)),
  ),
  v.pipe(
    v.strictObject({ $timestamp: v.strictObject({ t: uint32(), i: uint32() }) }),
    v.transform(({ $timestamp }) => new Timestamp($timestamp)),
  ),
  v.boolean(),
  v.null(),
  // To valibot a list without items is a record without members.
  v.lazy((value): v.GenericSchema<unknown, IdValue> => (Array.isArray(value) ? noValue : subdocument)),
] as const;

/** A record's `_id`. MongoDB takes no array for it, nor a regular expression. */
export const recordId: v.GenericSchema<unknown, IdValue> = v.union(ID_ALTERNATIVES);

/** What a subdocument in an `_id` may hold. */
export const idPart: v.GenericSchema<unknown, IdValue> = v.union([
  recordId,
  v.array(v.lazy((): v.GenericSchema<unknown, IdValue> => idPart)),
]);

/** A BinData of subtype 0 as canonical Extended JSON. */
export function canonicalBinary(value: Binary): { $binary: { base64: string; subType: "00" } } {
  return {
    $binary: {
      base64: Buffer.from(value.buffer.buffer, value.buffer.byteOffset, value.position).toString("base64"),
      subType: "00",
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Strictly: the alphabet, the padding, no blanks, and no bits beyond the last byte. @returns undefined when it is none. */
function bytesOf(text: string): Buffer | undefined {
  let bytes: Uint8Array;
  try {
    bytes = Uint8Array.fromBase64(text, { lastChunkHandling: "strict" });
  } catch {
    return undefined;
  }
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  // Blanks are passed over: then the text is longer than its bytes need.
  return text.length * 3 === (bytes.length + padding) * 4 ? Buffer.from(bytes.buffer, 0, bytes.length) : undefined;
}

function text(pattern: RegExp) {
  return v.pipe(v.string(), v.regex(pattern));
}

function uint32() {
  return v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(4_294_967_295));
}

/** A whole number in decimal, of at most so much, or so much below zero. As a pattern, since the OpenAPI document can show one. */
function whole(max: string, maxBelow: string) {
  return text(new RegExp(`^(0|${upTo(max)}|-(${upTo(maxBelow)}))$`));
}

/** A pattern for the numbers from 1 to `max`. */
function upTo(max: string): string {
  const shorter = `[1-9][0-9]{0,${max.length - 2}}`;
  const below = [...max].flatMap((digit, at) => {
    const lowest = at === 0 ? 1 : 0;
    if (Number(digit) <= lowest) return [];
    const rest = max.length - at - 1;
    return [`${max.slice(0, at)}[${lowest}-${Number(digit) - 1}]${rest === 0 ? "" : `[0-9]{${rest}}`}`];
  });
  return [shorter, ...below, max].join("|");
}
