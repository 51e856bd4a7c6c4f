import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, randomFillSync } from "node:crypto";

/** AES-256-GCM with a 96-bit IV and a 128-bit tag (NIST SP 800-38D, sections 5.2 and 8.2.2: random IVs). */

const AES_256_GCM = "aes-256-gcm";
export const IV_BYTES = 12;
export const TAG_BYTES = 16;
export const KEY_BYTES = 32;
/** iv ‖ ciphertext of 32 bytes ‖ tag */
export const WRAP_BYTES = IV_BYTES + KEY_BYTES + TAG_BYTES;
/** @returns ciphertext ‖ tag */
export function seal(key: Uint8Array, iv: Uint8Array, plaintext: Uint8Array, aad: Uint8Array): Buffer {
  const [body, tag] = sealParts(key, iv, plaintext, aad);
  return Buffer.concat([body, tag], body.length + TAG_BYTES);
}

/**
 * @param sealed ciphertext ‖ tag
 * @throws Error when the tag does not match: other key, other AAD, or changed bytes. GCM cannot tell which.
 */
export function open(key: Uint8Array, iv: Uint8Array, sealed: Uint8Array, aad: Uint8Array): Buffer {
  const split = sealed.length - TAG_BYTES;
  // A decipher takes shorter tags too, which are easier to forge (NIST SP 800-38D, appendix C).
  if (split < 0)
    throw new RangeError(`what is sealed ends with a tag of ${TAG_BYTES} bytes: ${sealed.length} are too few`);
  return openParts(key, iv, sealed.subarray(0, split), sealed.subarray(split), aad);
}

/** Wraps 32 bytes under a key that is in memory: iv ‖ ciphertext ‖ tag. */
export function wrapWithKey(key: Uint8Array, secret: Uint8Array, aad: Uint8Array): Buffer {
  const iv = freshIv();
  const [body, tag] = sealParts(key, iv, secret, aad);
  return Buffer.concat([iv, body, tag], WRAP_BYTES);
}

/** @throws Error when the wrap does not open. */
export function unwrapWithKey(key: Uint8Array, wrapped: Uint8Array, aad: Uint8Array): Buffer {
  if (wrapped.length !== WRAP_BYTES) throw new RangeError(`a wrap has ${WRAP_BYTES} bytes, not ${wrapped.length}`);
  const split = WRAP_BYTES - TAG_BYTES;
  const iv = wrapped.subarray(0, IV_BYTES);
  return openParts(key, iv, wrapped.subarray(IV_BYTES, split), wrapped.subarray(split), aad);
}

/** @returns a new IV: see `fillIv`. */
export function freshIv(): Buffer {
  const iv = Buffer.allocUnsafe(IV_BYTES);
  fillIv(iv);
  return iv;
}

/**
 * NIST SP 800-38D, 8.2.2: 96 random bits, never chosen by the caller. Drawn many at a time; each is given out once, and in the
 * moment after they were drawn: a virtual machine that is copied with its memory would give out in both what lies there for later.
 */
export function fillIv(iv: Uint8Array): void {
  const now = performance.now();
  if (nextIv === ivs.length || now - drawnAt > MOMENT_MS) {
    randomFillSync(ivs);
    nextIv = 0;
    drawnAt = now;
  }
  copyBytes(ivs, nextIv, iv, 0, IV_BYTES);
  nextIv += IV_BYTES;
}

/** For a few bytes: a view for `set` costs more than the bytes. */
export function copyBytes(from: Uint8Array, fromAt: number, to: Uint8Array, toAt: number, length: number): void {
  for (let index = 0; index < length; index += 1) to[toAt + index] = from[fromAt + index] as number;
}

// ---------------------------------------------------------------------------------------------------------------------

const IVS_DRAWN = 64;
const MOMENT_MS = 1;
const ivs = new Uint8Array(IV_BYTES * IVS_DRAWN);
let nextIv = ivs.length;
let drawnAt = Number.NEGATIVE_INFINITY;

function sealParts(
  key: Uint8Array,
  iv: Uint8Array,
  plaintext: Uint8Array,
  aad: Uint8Array,
): [body: Buffer, tag: Buffer] {
  // Without options: reading them costs a tenth of sealing a small value, and 16 bytes are what GCM's tag has by itself.
  const cipher = createCipheriv(AES_256_GCM, key, iv);
  cipher.setAAD(aad);
  const body = cipher.update(plaintext);
  cipher.final();
  return [body, cipher.getAuthTag()];
}

function openParts(key: Uint8Array, iv: Uint8Array, body: Uint8Array, tag: Uint8Array, aad: Uint8Array): Buffer {
  const decipher = createDecipheriv(AES_256_GCM, key, iv);
  decipher.setAAD(aad);
  decipher.setAuthTag(tag);
  const plaintext = decipher.update(body);
  try {
    decipher.final();
  } catch (thrown) {
    // With the right key and another AAD these are the true bytes: only the tag depends on the AAD.
    plaintext.fill(0);
    throw thrown;
  }
  return plaintext;
}
