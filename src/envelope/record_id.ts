import { Buffer } from "node:buffer";
import { Binary, Decimal128, Double, Int32, Long, MaxKey, MinKey, ObjectId, serialize, Timestamp } from "bson";
import { KekError } from "../errors/errors.ts";
import { copyBytes } from "./gcm.ts";
import { ID_NAME, ID_VALUE_AT, LENGTH_BYTES, TYPE_INT32, TYPE_OBJECT_ID } from "./raw_elements.ts";

/** From the `_id` that a program holds to the BSON that its driver stores for it. */

/**
 * The BSON of `{_id: id}`. The program may have a driver, and with it a bson package, of another major version.
 * @throws KekError `usage` for what cannot be an `_id`, or is stored in one way by one driver and in another by the next.
 */
export function recordIdBson(id: unknown): Uint8Array {
  return commonIdBson(id) ?? serialize({ _id: ownTypes(id) });
}

// ---------------------------------------------------------------------------------------------------------------------

const OBJECT_ID_BYTES = 12;

/** What the serializer makes of whole numbers and ObjectIds, which most `_id`s are, without its ado: each value sealed needs it. */
function commonIdBson(id: unknown): Uint8Array | undefined {
  if (typeof id === "number") {
    // The serializer stores -0, as every number that is no int32, as a double.
    if (!Number.isInteger(id) || id !== (id | 0) || Object.is(id, -0)) return undefined;
    const out = idDocument(TYPE_INT32, 4);
    out.writeInt32LE(id, ID_VALUE_AT);
    return out;
  }
  if (!(id instanceof ObjectId) || id.id.length !== OBJECT_ID_BYTES) return undefined;
  const out = idDocument(TYPE_OBJECT_ID, OBJECT_ID_BYTES);
  copyBytes(id.id, 0, out, ID_VALUE_AT, OBJECT_ID_BYTES);
  return out;
}

/** `{_id: …}` with room for a value. */
function idDocument(type: number, valueBytes: number): Buffer {
  const out = Buffer.alloc(ID_VALUE_AT + valueBytes + 1);
  out[0] = out.length;
  out[LENGTH_BYTES] = type;
  copyBytes(ID_NAME, 0, out, LENGTH_BYTES + 1, ID_NAME.length);
  return out;
}

/** Where bson keeps the major version that a value is of; its serializer refuses values of another. */
const MAJOR = Symbol.for("@@mdb.bson.version");
const OWN_MAJOR = (Int32.prototype as unknown as Tagged)[MAJOR];

interface Tagged {
  _bsontype: string;
  [MAJOR]: unknown;
}

function ownTypes(value: unknown): unknown {
  // A driver drops undefined or makes it null, as it is configured: nobody can say here which.
  if (value === undefined || typeof value === "function" || typeof value === "symbol")
    throw notAnId(`${typeof value} in it has no one form in BSON`);
  if (typeof value !== "object" || value === null) return value;
  if ("_bsontype" in value) return (value as Tagged)[MAJOR] === OWN_MAJOR ? value : converted(value as Tagged);
  if (Array.isArray(value)) return value.map(ownTypes);
  if (value instanceof Map) return new Map([...value].map(([key, inner]) => [key, ownTypes(inner)]));
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, ownTypes(inner)]));
}

/** The same value as a type of this program's bson package. */
function converted(value: Tagged): unknown {
  switch (value._bsontype) {
    case "ObjectId":
    case "ObjectID":
      return new ObjectId((value as unknown as ObjectId).id);
    case "Binary": {
      const { buffer, position, sub_type } = value as unknown as Binary;
      return new Binary(buffer.subarray(0, position), sub_type);
    }
    case "Int32":
      return new Int32((value as unknown as Int32).value);
    case "Double":
      return new Double((value as unknown as Double).value);
    case "Long": {
      const { low, high, unsigned } = value as unknown as Long;
      return new Long(low, high, unsigned);
    }
    case "Timestamp": {
      const { low, high } = value as unknown as Timestamp;
      return new Timestamp(new Long(low, high, true));
    }
    case "Decimal128":
      return new Decimal128((value as unknown as Decimal128).bytes);
    case "MinKey":
      return new MinKey();
    case "MaxKey":
      return new MaxKey();
    default:
      throw notAnId(`it holds a ${value._bsontype} of another version of the bson package`);
  }
}

function notAnId(why: string): KekError {
  return new KekError(
    "usage",
    `the record's _id cannot be bound: ${why}`,
    "give the _id exactly as it is stored: an ObjectId, a UUID, text, a number, or a document of such values",
  );
}
