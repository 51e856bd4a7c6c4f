import { createHash, randomBytes, randomUUID } from "node:crypto";
import { Binary, Decimal128, Double, Int32, Long, serialize } from "bson";
import type { Db } from "mongodb";
import { canaryAad, dekAad, type Place } from "../../src/envelope/aad.ts";
import { newDek, openField, sealField } from "../../src/envelope/field_cipher.ts";
import { unwrapWithKey, wrapWithKey } from "../../src/envelope/gcm.ts";
import type { NumberKind } from "./story.ts";

/** An install as its documents, and its keys: envelopes are sealed and opened here, without any process of the product. */

export const VERSIONS = [1, 2, 3] as const;

export class Install {
  readonly id = randomUUID();
  readonly keys = new Map<number, Buffer>(VERSIONS.map((version) => [version, randomBytes(32)]));

  /** Version 1 is in use. The others become known when a command that holds their keys needs them. */
  async write(db: Db): Promise<void> {
    const now = new Date();
    await db.collection<{ _id: string }>("kek_install").insertOne({
      _id: "kek_install",
      provider: "env",
      install_id: this.id,
      locked_at: now,
      locked_by: "service",
    } as { _id: string });
    const secret = randomBytes(32);
    await db.collection<{ _id: number }>("kek_versions").insertOne({
      _id: 1,
      provider: "env",
      state: "active",
      canary: new Binary(wrapWithKey(this.#key(1), secret, canaryAad(this.id, "env", 1)), 0),
      canary_digest: new Binary(createHash("sha256").update(secret).digest(), 0),
      wraps: 1000,
      staged_at: now,
      activated_at: now,
    } as { _id: number });
  }

  seal(place: Place, version: number, kind: NumberKind = "int32"): { stored: object; digest: string } {
    const plaintext = randomBytes(24);
    const dek = newDek();
    const { nonce, ciphertext } = sealField(dek, plaintext, this.id, place);
    const wrapped = wrapWithKey(this.#key(version), dek, dekAad(this.id, "env", version, place));
    return {
      digest: digestOf(plaintext),
      stored: {
        format: new Int32(1),
        provider: "env",
        kek_version: NUMBERS[kind](version),
        wrapped_dek: new Binary(wrapped, 0),
        nonce: new Binary(nonce, 0),
        ciphertext: new Binary(ciphertext, 0),
      },
    };
  }

  /** @returns the plaintext's digest. @throws Error when it does not open. */
  open(
    place: Place,
    version: number,
    sealed: { wrapped: Uint8Array; nonce: Uint8Array; ciphertext: Uint8Array },
  ): string {
    const dek = unwrapWithKey(this.#key(version), sealed.wrapped, dekAad(this.id, "env", version, place));
    return digestOf(openField(dek, sealed, this.id, place));
  }

  #key(version: number): Buffer {
    const key = this.keys.get(version);
    if (key === undefined) throw new Error(`there is no key of version ${version}`);
    return key;
  }
}

export function placeOf(collection: string, id: unknown, path: string): Place {
  return { collection, idBson: serialize({ _id: id }), path };
}

// ---------------------------------------------------------------------------------------------------------------------

const NUMBERS: Record<NumberKind, (version: number) => unknown> = {
  int32: (version) => new Int32(version),
  int64: (version) => Long.fromNumber(version),
  double: (version) => new Double(version),
  decimal: (version) => Decimal128.fromString(String(version)),
};

function digestOf(plaintext: Uint8Array): string {
  return createHash("sha256").update(plaintext).digest("base64url");
}
