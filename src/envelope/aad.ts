import { Buffer } from "node:buffer";
import { recordIdBson } from "./record_id.ts";

/** Additional authenticated data, docs/format.md: a list of parts, each as uint32 big-endian length ‖ bytes. */

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
export function fieldAad(installId: string, { collection, idBson, path }: Place): Uint8Array {
  return layoutsOf(installId, collection, path).field(idBson);
}

/** W: binds a wrapped DEK to its KEK version and its place. */
export function dekAad(
  installId: string,
  provider: string,
  version: number,
  { collection, idBson, path }: Place,
): Uint8Array {
  const { deks } = layoutsOf(installId, collection, path);
  let layout = deks.get(version);
  if (layout?.provider !== provider) {
    layout = { provider, lay: dekAadOf(installId, provider, version, collection, path) };
    deks.set(version, layout);
  }
  return layout.lay(idBson);
}

/** W for many records of one field: everything but the `_id` is laid out once. */
export function dekAadOf(
  installId: string,
  provider: string,
  version: number,
  collection: string,
  path: string,
): Layout {
  return layoutOf(parts("certautopilot/dek/1", installId, provider, String(version), collection), parts(path));
}

/** Binds a canary to its KEK version. */
export function canaryAad(installId: string, provider: string, version: number): Uint8Array {
  return parts("certautopilot/canary/1", installId, provider, String(version));
}

// ---------------------------------------------------------------------------------------------------------------------

/** From the BSON of `{_id: …}` to the AAD. */
type Layout = (idBson: Uint8Array) => Uint8Array;

/** What does not change from record to record of a field. */
interface FieldLayouts {
  field: Layout;
  /** By KEK version. */
  deks: Map<number, { provider: string; lay: Layout }>;
}

/** A service has few fields and seals many values; who asks for ever new fields is not remembered for ever. */
const REMEMBERED = 1000;
/** Install → collection → path. */
const remembered = new Map<string, Map<string, Map<string, FieldLayouts>>>();
let rememberedFields = 0;

function layoutsOf(installId: string, collection: string, path: string): FieldLayouts {
  return remembered.get(installId)?.get(collection)?.get(path) ?? remember(installId, collection, path);
}

function remember(installId: string, collection: string, path: string): FieldLayouts {
  if (rememberedFields === REMEMBERED) remembered.clear();
  rememberedFields = remembered.size === 0 ? 1 : rememberedFields + 1;
  const collections = remembered.get(installId) ?? new Map<string, Map<string, FieldLayouts>>();
  const paths = collections.get(collection) ?? new Map<string, FieldLayouts>();
  remembered.set(installId, collections.set(collection, paths));
  const field = layoutOf(parts("certautopilot/field/1", installId, collection), parts(path));
  const layouts = { field, deks: new Map() };
  paths.set(path, layouts);
  return layouts;
}

function layoutOf(head: Uint8Array, tail: Uint8Array): Layout {
  return (idBson) => {
    const out = Buffer.allocUnsafe(head.length + 4 + idBson.length + tail.length);
    out.set(head, 0);
    out.writeUInt32BE(idBson.length, head.length);
    out.set(idBson, head.length + 4);
    out.set(tail, head.length + 4 + idBson.length);
    return out;
  };
}

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
