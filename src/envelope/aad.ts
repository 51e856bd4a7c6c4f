import { Buffer } from "node:buffer";
import { recordIdBson } from "./record_id.ts";

/** Additional authenticated data, DESIGN.md section 3: a list of parts, each as uint32 big-endian length ‖ bytes. */

/** Where an envelope lives. It opens nowhere else. */
export interface Place {
  collection: string;
  /** The BSON document `{_id: <the record's _id>}`, byte for byte as MongoDB stores it. */
  idBson: Uint8Array;
  path: string;
}

/** @throws KekError `usage` for what cannot be an `_id`. */
export function placeOf(collection: string, id: unknown, path: string): Place {
  return { collection, idBson: recordIdBson(id), path };
}

/** P: binds a field's ciphertext to its place. */
export function fieldAad(installId: string, place: Place): Uint8Array {
  return parts("certautopilot/field/1", installId, place.collection, place.idBson, place.path);
}

/** W: binds a wrapped DEK to its KEK version and its place. */
export function dekAad(installId: string, provider: string, version: number, place: Place): Uint8Array {
  return dekAadOf(installId, provider, version, place.collection, place.path)(place.idBson);
}

/** W for many records of one field: everything but the `_id` is laid out once. */
export function dekAadOf(
  installId: string,
  provider: string,
  version: number,
  collection: string,
  path: string,
): (idBson: Uint8Array) => Uint8Array {
  const head = parts("certautopilot/dek/1", installId, provider, String(version), collection);
  const tail = parts(path);
  return (idBson) => {
    const out = Buffer.allocUnsafe(head.length + 4 + idBson.length + tail.length);
    out.set(head, 0);
    out.writeUInt32BE(idBson.length, head.length);
    out.set(idBson, head.length + 4);
    out.set(tail, head.length + 4 + idBson.length);
    return out;
  };
}

/** Binds a canary to its KEK version. */
export function canaryAad(installId: string, provider: string, version: number): Uint8Array {
  return parts("certautopilot/canary/1", installId, provider, String(version));
}

// ---------------------------------------------------------------------------------------------------------------------

function parts(...list: (string | Uint8Array)[]): Buffer {
  const buffers = list.map((part) => (typeof part === "string" ? Buffer.from(part, "utf8") : part));
  const out = Buffer.allocUnsafe(buffers.reduce((sum, part) => sum + 4 + part.length, 0));
  let at = 0;
  for (const part of buffers) {
    at = out.writeUInt32BE(part.length, at);
    out.set(part, at);
    at += part.length;
  }
  return out;
}
