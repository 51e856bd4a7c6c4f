import { createHash } from "node:crypto";
import { serialize } from "bson";
import type { Db } from "mongodb";
import type { Place } from "../../src/envelope/aad.ts";
import type { Install } from "./install.ts";

/**
 * The oracle: every envelope that was ever sealed, kept in memory with the place it was sealed for, and what is in the database
 * now. It uses nothing of the product's bookkeeping but the states of versions.
 */

export interface Sealed {
  place: Place;
  digest: string;
}

/** An envelope where it is now. */
export interface Found {
  collection: string;
  id: string;
  /** As a query of MongoDB has it: without the positions in arrays. */
  path: string;
  version: number;
  payload: string;
  wrapped: Uint8Array;
  nonce: Uint8Array;
  ciphertext: Uint8Array;
}

export interface Scan {
  envelopes: Found[];
  /** Each document without the wraps and versions of its envelopes, by collection and `_id`. */
  rest: Map<string, string>;
}

export class Ledger {
  readonly #sealed = new Map<string, Sealed>();

  add(stored: object, sealed: Sealed): void {
    const { nonce, ciphertext } = stored as Record<string, { buffer: Uint8Array }>;
    this.#sealed.set(payloadOf((nonce as Bytes).buffer, (ciphertext as Bytes).buffer), sealed);
  }

  /** Where an envelope was sealed for. @returns undefined for one that this test did not seal. */
  placeOf(found: Found): Place | undefined {
    return this.#sealed.get(found.payload)?.place;
  }

  /** @param gone versions whose keys are destroyed. @returns why an envelope cannot be opened any more; undefined when it can. */
  fault(install: Install, found: Found, gone: ReadonlySet<number>): string | undefined {
    const sealed = this.#sealed.get(found.payload);
    if (sealed === undefined) return undefined;
    if (gone.has(found.version)) return `the key of version ${found.version} is destroyed`;
    try {
      const digest = install.open(sealed.place, found.version, found);
      return digest === sealed.digest ? undefined : "it opens to another plaintext";
    } catch (thrown) {
      return `it does not open with version ${found.version}: ${(thrown as Error).message}`;
    }
  }
}

/** Reads every collection of the application, whole. */
export async function scan(db: Db): Promise<Scan> {
  const found: Scan = { envelopes: [], rest: new Map() };
  for (const { name, type } of await db.listCollections().toArray()) {
    if (type === "view" || OWN.test(name)) continue;
    for await (const document of db.collection(name).find({}, { promoteValues: false })) {
      const id = hex(serialize({ _id: document["_id"] }));
      const without = walk(document, [], (path, envelope) => {
        const { nonce, ciphertext, wrapped_dek, kek_version } = envelope as Record<string, Bytes>;
        found.envelopes.push({
          collection: name,
          id,
          path: path.join("."),
          version: Number(String(kek_version)),
          payload: payloadOf((nonce as Bytes).buffer, (ciphertext as Bytes).buffer),
          wrapped: (wrapped_dek as Bytes).buffer,
          nonce: (nonce as Bytes).buffer,
          ciphertext: (ciphertext as Bytes).buffer,
        });
      });
      found.rest.set(
        `${name} ${id}`,
        createHash("sha256")
          .update(serialize(without as object))
          .digest("base64"),
      );
    }
  }
  return found;
}

/** What a command changed that it may not change: anything but wraps and versions. */
export function changes(before: Scan, after: Scan): string[] {
  const found: string[] = [];
  for (const [document, digest] of before.rest) {
    const now = after.rest.get(document);
    if (now === undefined) found.push(`document ${document} is gone`);
    else if (now !== digest) found.push(`document ${document} is another one`);
  }
  for (const document of after.rest.keys()) if (!before.rest.has(document)) found.push(`document ${document} is new`);
  return found;
}

// ---------------------------------------------------------------------------------------------------------------------

interface Bytes {
  buffer: Uint8Array;
}

/** The product's own, each by its name: an application may call a collection `kek_users`. */
const OWN =
  /^(kek_(install|versions|fields|rotations|verifications|claims|imports|signals)|process_heartbeats|audit_log|system\..*)$/;
const MEMBERS = ["kek_version", "wrapped_dek", "nonce", "ciphertext"] as const;

/** @returns the value without the wraps and versions of the envelopes in it. */
function walk(value: unknown, path: string[], envelope: (path: string[], value: object) => void): unknown {
  // In an array within an array MongoDB's paths need the position.
  if (Array.isArray(value))
    return value.map((item, at) => walk(item, Array.isArray(item) ? [...path, String(at)] : path, envelope));
  if (typeof value !== "object" || value === null || "_bsontype" in value || value instanceof Date) return value;
  if (value instanceof RegExp || value instanceof Uint8Array) return value;
  const members = value as Record<string, unknown>;
  if (MEMBERS.every((name) => name in members) && isBytes(members["nonce"]) && isBytes(members["ciphertext"])) {
    envelope(path, members);
    return { ...members, kek_version: 0, wrapped_dek: 0 };
  }
  return Object.fromEntries(
    Object.entries(members).map(([name, item]) => [name, walk(item, [...path, name], envelope)]),
  );
}

function isBytes(value: unknown): value is Bytes {
  return (value as { _bsontype?: string } | null)?._bsontype === "Binary";
}

function payloadOf(nonce: Uint8Array, ciphertext: Uint8Array): string {
  return `${hex(nonce)}.${hex(ciphertext)}`;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
