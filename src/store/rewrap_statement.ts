import { Buffer } from "node:buffer";
import { Int32, serialize } from "bson";
import { WRAP_BYTES } from "../envelope/gcm.ts";
import { ID_VALUE_AT, LENGTH_BYTES, TYPE_ARRAY, TYPE_BINARY, TYPE_DOCUMENT } from "../envelope/raw_elements.ts";
import { versionKey } from "../protocol/version_path.ts";

/** What a rewrap asks MongoDB to do, as raw BSON: made of a million records' bytes, so none is decoded and encoded again. */

export interface Rewrap {
  /** The BSON document `{_id: …}`, as MongoDB gave it. */
  idBson: Uint8Array;
  oldWrap: Uint8Array;
  newWrap: Uint8Array;
}

/**
 * A maker of update statements, each for one or many records:
 *
 *     { q: { _id: { $in: [ids] }, "<path>.kek_version": from, "<path>.wrapped_dek": { $in: [old wraps] },
 *            $expr: { $lt: ["$$NOW", until] } },
 *       u: [{ $set: { "<path>.kek_version": to, "<path>.wrapped_dek": { $let: {
 *         vars: { at: { $indexOfArray: [{ $literal: [old wraps] }, "$<path>.wrapped_dek"] } },
 *         in: { $switch: { branches: [
 *           { case: { $gte: ["$$at", 0] }, then: { $arrayElemAt: [{ $literal: [new wraps] }, "$$at"] } }] } } } } } }],
 *       multi: true, hint: { _id: 1 } }
 *
 * The old wrap is compared in the filter, and chosen by in the update: it is 60 bytes of which 12 are random and that open for
 * one record only, so a new wrap can land nowhere but where its old one was. What the filter finds and the update does not (an
 * array that an old wrap is in) has no branch to go to, and MongoDB refuses the update.
 * @param until by MongoDB's clock; what reaches it later finds nothing.
 */
export function rewrapStatements(path: string, from: number, to: number, until: Date): (group: Rewrap[]) => Uint8Array {
  const wrapKey = `${path}.wrapped_dek`;
  const versionName = versionKey(path);
  const fromElement = elementsOf({ [versionName]: new Int32(from) });
  const toElement = elementsOf({ [versionName]: new Int32(to) });
  const inTime = elementsOf({ $expr: { $lt: ["$$NOW", until] } });
  const atOldWrap = elementsOf({ "1": `$${wrapKey}` });

  return (group) => {
    const out = new RawDocument(BESIDES + NAMED * Buffer.byteLength(path) + group.length * A_RECORD + idBytes(group));
    const wraps = (name: string, which: "oldWrap" | "newWrap") =>
      out.within(TYPE_ARRAY, name, () => {
        for (const [at, rewrap] of group.entries())
          out.element(TYPE_BINARY, String(at)).put(BINARY_HEAD).put(rewrap[which]);
      });
    const literal = (name: string, which: "oldWrap" | "newWrap") => document(name, () => wraps("$literal", which));
    const document = (name: string, inner: () => void) => out.within(TYPE_DOCUMENT, name, inner);
    const array = (name: string, inner: () => void) => out.within(TYPE_ARRAY, name, inner);
    const ids = () => {
      for (const [at, { idBson }] of group.entries())
        out.element(idBson[LENGTH_BYTES] as number, String(at)).put(idBson.subarray(ID_VALUE_AT, idBson.length - 1));
    };
    const filter = () => {
      document("_id", () => array("$in", ids));
      out.put(fromElement);
      document(wrapKey, () => wraps("$in", "oldWrap"));
      out.put(inTime);
    };
    const found = () => {
      literal("0", "oldWrap");
      out.put(atOldWrap);
    };
    const branch = () => {
      out.put(IF_FOUND);
      document("then", () =>
        array("$arrayElemAt", () => {
          literal("0", "newWrap");
          out.put(AT_FOUND);
        }),
      );
    };
    const chosen = () => {
      document("vars", () => document("at", () => array("$indexOfArray", found)));
      document("in", () => document("$switch", () => array("branches", () => document("0", branch))));
    };
    const set = () => {
      out.put(toElement);
      document(wrapKey, () => document("$let", chosen));
    };
    return out.whole(() => {
      document("q", filter);
      array("u", () => document("0", () => document("$set", set)));
      out.put(OPTIONS);
    });
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Of a binary value before its bytes: their number, and subtype 0. */
const BINARY_HEAD = new Uint8Array([WRAP_BYTES, 0, 0, 0, 0]);
const IF_FOUND = elementsOf({ case: { $gte: ["$$at", 0] } });
const AT_FOUND = elementsOf({ "1": "$$at" });
const OPTIONS = elementsOf({ multi: true, hint: { _id: 1 } });
/** How often a statement names the field's path. */
const NAMED = 5;
/** More than what a statement, and each record in it, has besides what is counted. */
const BESIDES = 700;
const A_RECORD = 3 * (WRAP_BYTES + 20) + 20;

function idBytes(group: Rewrap[]): number {
  return group.reduce((sum, { idBson }) => sum + idBson.length, 0);
}

/** A document's elements without its length and its end. */
function elementsOf(document: object): Uint8Array {
  return serialize(document).subarray(LENGTH_BYTES, -1);
}

/** BSON as it is written, one element after the other; a document's length is filled in at its end. */
class RawDocument {
  readonly #bytes: Buffer;
  #at = 0;

  /** @param most bytes that will be put. */
  constructor(most: number) {
    this.#bytes = Buffer.allocUnsafe(most);
  }

  /** @returns the document of all that `inner` puts. */
  whole(inner: () => void): Uint8Array {
    this.#enclose(inner);
    return this.#bytes.subarray(0, this.#at);
  }

  /** A document or an array of all that `inner` puts. */
  within(type: number, name: string, inner: () => void): void {
    this.element(type, name);
    this.#enclose(inner);
  }

  /** What begins an element; its value is to follow. */
  element(type: number, name: string): this {
    this.#at = this.#bytes.writeUInt8(type, this.#at);
    this.#at += this.#bytes.write(name, this.#at, "utf8");
    this.#at = this.#bytes.writeUInt8(0, this.#at);
    return this;
  }

  put(bytes: Uint8Array): this {
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  #enclose(inner: () => void): void {
    const start = this.#at;
    this.#at += LENGTH_BYTES;
    inner();
    this.#at = this.#bytes.writeUInt8(0, this.#at);
    this.#bytes.writeInt32LE(this.#at - start, start);
  }
}
