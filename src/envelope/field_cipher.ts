import { randomFillSync } from "node:crypto";
import { KekError } from "../errors/errors.ts";
import { fieldAad, type Place } from "./aad.ts";
import { MAX_PLAINTEXT_BYTES } from "./envelope.ts";
import { freshIv, KEY_BYTES, open, seal } from "./gcm.ts";

/** One field's bytes under its own DEK. A DEK encrypts one value once, so a nonce can never repeat under it. */

export function newDek(): Buffer {
  return randomFillSync(Buffer.allocUnsafeSlow(KEY_BYTES));
}

/** @throws KekError `plaintext_too_large` above 8 MiB. */
export function sealField(dek: Uint8Array, plaintext: Uint8Array, installId: string, place: Place) {
  if (plaintext.length > MAX_PLAINTEXT_BYTES) {
    throw new KekError(
      "plaintext_too_large",
      `${place.collection}:${place.path}: ${plaintext.length} bytes are more than a field may hold (8 MiB)`,
      "store large material elsewhere and its key here",
    );
  }
  const nonce = freshIv();
  return { nonce, ciphertext: seal(dek, nonce, plaintext, fieldAad(installId, place)) };
}

/** @throws KekError `decryption_failed` when the ciphertext is not this field's, or was changed. */
export function openField(
  dek: Uint8Array,
  sealed: { nonce: Uint8Array; ciphertext: Uint8Array },
  installId: string,
  place: Place,
): Buffer {
  try {
    return open(dek, sealed.nonce, sealed.ciphertext, fieldAad(installId, place));
  } catch {
    throw new KekError(
      "decryption_failed",
      `${place.collection}:${place.path}: the ciphertext does not open with its data key at this place`,
      "it was changed, or moved from another record or field: restore this field from a backup",
    );
  }
}
