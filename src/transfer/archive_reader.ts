import { readInt32 } from "../envelope/raw_elements.ts";
import { decodeFrame, decodeHeader, type Header, MAX_FRAME_BYTES, type Trailer } from "./archive_format.ts";
import { piecesOf } from "./private_file.ts";
import { damaged, type FileKey, findFileKey, type Unseal, unsealed } from "./sealed_stream.ts";

/** Records of one collection, as they follow one another in the archive. `wipe` zeroes them. */
export interface ArchivedBatch {
  collection: string;
  records: Uint8Array[];
  wipe(): void;
}

/** An archive from its beginning, once. */
export interface Archive {
  header: Header;
  /** Until the trailer, which is returned. @throws KekError `archive_damaged` for whatever is not a whole archive. */
  batches(): AsyncGenerator<ArchivedBatch, Trailer>;
  close(): Promise<void>;
}

/** @throws KekError `archive_unreadable`, `archive_damaged`. */
export async function archiveKey(path: string, unseal: Unseal): Promise<FileKey> {
  return await findFileKey(piecesOf(path), path, unseal);
}

/** @throws KekError as `archiveKey`. */
export async function openArchive(path: string, key: FileKey): Promise<Archive> {
  const frames = framesOf(await unsealed(piecesOf(path), path, key), path);
  try {
    const first = await frames.next();
    if (first.done === true) throw damaged(path, "there is nothing in it");
    const header = decodeHeader(first.value, path);
    return {
      header,
      batches: () => batchesOf(frames, path),
      close: async () => {
        await frames.return(undefined);
      },
    };
  } catch (thrown) {
    await frames.return(undefined);
    throw thrown;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const BATCH_RECORDS = 500;
const BATCH_BYTES = 4 * 1024 * 1024;

async function* batchesOf(frames: AsyncGenerator<Uint8Array>, path: string): AsyncGenerator<ArchivedBatch, Trailer> {
  let batch: Batch | undefined;
  for await (const frame of frames) {
    const found = decodeFrame(frame, path);
    if ("trailer" in found) {
      if (batch !== undefined) yield batch;
      if ((await frames.next()).done !== true) throw damaged(path, "something follows its end");
      return found.trailer;
    }
    if (batch !== undefined && !batch.takes(found.collection, frame)) {
      yield batch;
      batch = undefined;
    }
    batch ??= new Batch(found.collection);
    batch.add(frame, found.record);
  }
  throw damaged(path, "its end is missing");
}

class Batch implements ArchivedBatch {
  readonly collection: string;
  readonly records: Uint8Array[] = [];
  readonly #frames: Uint8Array[] = [];
  #bytes = 0;

  constructor(collection: string) {
    this.collection = collection;
  }

  takes(collection: string, frame: Uint8Array): boolean {
    return (
      collection === this.collection && this.records.length < BATCH_RECORDS && this.#bytes + frame.length <= BATCH_BYTES
    );
  }

  add(frame: Uint8Array, record: Uint8Array): void {
    this.#frames.push(frame);
    this.records.push(record);
    this.#bytes += frame.length;
  }

  wipe(): void {
    for (const frame of this.#frames) frame.fill(0);
  }
}

const LENGTH_BYTES = 4;
const SHORTEST = 5;

/** Cuts the plaintext into BSON documents; each is a copy, and what it was copied from is zeroed. */
async function* framesOf(pieces: AsyncGenerator<Uint8Array>, path: string): AsyncGenerator<Uint8Array> {
  let held: Uint8Array = new Uint8Array(0);
  let parts: Uint8Array[] = [];
  let missing = LENGTH_BYTES;
  for await (const piece of pieces) {
    parts.push(piece);
    missing -= piece.length;
    if (missing > 0) continue;
    held = joined(held, parts);
    parts = [];
    let at = 0;
    for (;;) {
      const left = held.length - at;
      const length = left < LENGTH_BYTES ? LENGTH_BYTES : readInt32(held, at);
      if (left >= LENGTH_BYTES && (length < SHORTEST || length > MAX_FRAME_BYTES)) throw damaged(path);
      if (left < LENGTH_BYTES || left < length) {
        missing = length - left;
        break;
      }
      yield held.slice(at, at + length);
      at += length;
    }
    const rest = held.slice(at);
    held.fill(0);
    held = rest;
  }
  if (held.length > 0 || parts.length > 0) throw damaged(path);
}

function joined(held: Uint8Array, parts: Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, held.length));
  out.set(held, 0);
  let at = held.length;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
    part.fill(0);
  }
  held.fill(0);
  return out;
}
