import { createHash, randomFillSync, timingSafeEqual } from "node:crypto";
import { canaryAad } from "../envelope/aad.ts";
import { KEY_BYTES, WRAP_BYTES } from "../envelope/gcm.ts";
import { KekError } from "../errors/errors.ts";
import type { Provider } from "./provider.ts";

/** A canary is a wrap of 32 random bytes kept with their digest: whoever opens it holds the very same KEK. */
export interface Canary {
  canary: Uint8Array;
  /** SHA-256 of the 32 bytes. */
  digest: Uint8Array;
}

/** The version must be loaded. */
export async function makeCanary(provider: Provider, installId: string, version: number): Promise<Canary> {
  const secret = randomFillSync(Buffer.alloc(KEY_BYTES));
  const digest = createHash("sha256").update(secret).digest();
  const canary = await provider.wrap(secret, canaryAad(installId, provider.name, version), version);
  return { canary, digest };
}

/**
 * Proves that the loaded key of a version is the install's.
 * @throws KekError `key_mismatch` when the canary does not open.
 */
export async function proveCanary(
  provider: Provider,
  installId: string,
  version: number,
  canary: Canary,
): Promise<void> {
  try {
    if (canary.canary.length !== WRAP_BYTES) throw new RangeError("canary of wrong length");
    const secret = await provider.unwrap(canary.canary, canaryAad(installId, provider.name, version), version);
    const digest = createHash("sha256").update(secret).digest();
    secret.fill(0);
    if (timingSafeEqual(digest, canary.digest)) return;
  } catch (thrown) {
    if (thrown instanceof KekError && thrown.code !== "envelope_does_not_open") throw thrown;
  }
  throw new KekError(
    "key_mismatch",
    `the key held here for KEK version ${version} is not the install's: its canary does not open`,
    `give this host the bytes that the rest of the fleet has for version ${version}, or point it at its own database`,
  );
}
