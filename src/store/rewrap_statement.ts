import { Buffer } from "node:buffer";
import { Binary, Int32, serialize } from "bson";
import { WRAP_BYTES } from "../envelope/gcm.ts";
import { ID_VALUE_AT, LENGTH_BYTES, TYPE_ARRAY, TYPE_BINARY, TYPE_DOCUMENT } from "../envelope/raw_elements.ts";
import { versionKey } from "./fields.ts";

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
 *     { q: { _id: { $in: [ids] }, "<path>.kek_version": from, "<path>.wrapped_dek": { $in: [old wraps] } },
 *       u: [{ $set: { "<path>.kek_version": to, "<path>.wrapped_dek": { $switch: { branches: [
 *         { case: { $eq: ["$<path>.wrapped_dek", old wrap] }, then: new wrap }, …] } } } }],
 *       multi: true, hint: { _id: 1 } }
 *
 * The old wrap is compared in the filter, and chosen by in the update: it is 60 bytes of which 12 are random and that open for
 * one record only, so a new wrap can land nowhere but where its old one was.
 */
export function rewrapStatements(path: string, from: number, to: number): (group: Rewrap[]) => Uint8Array {
  const wrapKey = `${path}.wrapped_dek`;
  const versionName = versionKey(path);
  const fixed = serialize({ multi: true, hint: { _id: 1 } });
  const afterUpdate = fixed.subarray(LENGTH_BYTES);
  const fromElement = elementsOf({ [versionName]: new Int32(from) });
  const toElement = elementsOf({ [versionName]: new Int32(to) });
  const branch = branchOf(wrapKey);

  return (group) => {
    const out = new RawDocument(
      BESIDES + 4 * Buffer.byteLength(path) + group.length * (branch.bytes.length + A_RECORD) + idBytes(group),
    );
    out.open();
    out.element(TYPE_DOCUMENT, "q").open();
    out.element(TYPE_DOCUMENT, "_id").open();
    out.element(TYPE_ARRAY, "$in").open();
    for (const [at, { idBson }] of group.entries()) {
      out.element(idBson[LENGTH_BYTES] as number, String(at)).put(idBson.subarray(ID_VALUE_AT, idBson.length - 1));
    }
    out.close().close();
    out.put(fromElement);
    out.element(TYPE_DOCUMENT, wrapKey).open();
    out.element(TYPE_ARRAY, "$in").open();
    for (const [at, { oldWrap }] of group.entries()) out.element(TYPE_BINARY, String(at)).put(BINARY_HEAD).put(oldWrap);
    out.close().close().close();
    out.element(TYPE_ARRAY, "u").open();
    out.element(TYPE_DOCUMENT, "0").open();
    out.element(TYPE_DOCUMENT, "$set").open();
    out.put(toElement);
    out.element(TYPE_DOCUMENT, wrapKey).open();
    out.element(TYPE_DOCUMENT, "$switch").open();
    out.element(TYPE_ARRAY, "branches").open();
    for (const [at, { oldWrap, newWrap }] of group.entries()) {
      out.element(TYPE_DOCUMENT, String(at));
      branch.bytes.set(oldWrap, branch.oldAt);
      branch.bytes.set(newWrap, branch.newAt);
      out.put(branch.bytes);
    }
    out.close().close().close().close().close().close();
    // The last zero of what follows ends the statement.
    out.put(afterUpdate.subarray(0, -1)).close();
    return out.bytes();
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Of a binary value before its bytes: their number, and subtype 0. */
const BINARY_HEAD = new Uint8Array([WRAP_BYTES, 0, 0, 0, 0]);
/** More than what a statement, and each record in it, has besides what is counted. */
const BESIDES = 400;
const A_RECORD = 120;

function idBytes(group: Rewrap[]): number {
  return group.reduce((sum, { idBson }) => sum + idBson.length, 0);
}

/** A document's elements without its length and its end. */
function elementsOf(document: object): Uint8Array {
  return serialize(document).subarray(LENGTH_BYTES, -1);
}

/** One branch with room for both wraps: its other bytes are the same for every record. */
function branchOf(wrapKey: string): { bytes: Uint8Array; oldAt: number; newAt: number } {
  const [old, next] = [new Uint8Array(WRAP_BYTES).fill(0xf0), new Uint8Array(WRAP_BYTES).fill(0xf1)];
  // biome-ignore lint/suspicious/noThenProperty: the name is MongoDB's
  const bytes = serialize({ case: { $eq: [`$${wrapKey}`, new Binary(old, 0)] }, then: new Binary(next, 0) });
  return { bytes, oldAt: Buffer.from(bytes).indexOf(old), newAt: Buffer.from(bytes).indexOf(next) };
}

/** BSON as it is written, one element after the other; lengths are filled in when a document is closed. */
class RawDocument {
  readonly #bytes: Buffer;
  readonly #open: number[] = [];
  #at = 0;

  /** @param most bytes that will be put. */
  constructor(most: number) {
    this.#bytes = Buffer.allocUnsafe(most);
  }

  open(): this {
    this.#open.push(this.#at);
    this.#at += LENGTH_BYTES;
    return this;
  }

  close(): this {
    const start = this.#open.pop() as number;
    this.#at = this.#bytes.writeUInt8(0, this.#at);
    this.#bytes.writeInt32LE(this.#at - start, start);
    return this;
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

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }
}
