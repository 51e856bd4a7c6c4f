import { createHash, randomFillSync, timingSafeEqual } from "node:crypto";
import type { ProviderName } from "../config/config.ts";
import { canaryAad } from "../envelope/aad.ts";
import { KEY_BYTES, WRAP_BYTES } from "../envelope/gcm.ts";
import { KekError } from "../errors/errors.ts";
import type { KeyCanary, Provider } from "./provider.ts";

/** A canary is a wrap of 32 random bytes kept with their digest: what opens it is the same KEK. */
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
  secret.fill(0);
  return { canary, digest };
}

/** What a provider is to load a version by. */
export function keyCanaryOf(
  { canary, digest }: Canary,
  installId: string,
  provider: ProviderName,
  version: number,
): KeyCanary {
  return { wrap: canary, aad: canaryAad(installId, provider, version), digest };
}

/** @param unwrap opens a wrap with the key in question, or throws. */
export function opensCanary(
  { wrap, aad, digest }: KeyCanary,
  unwrap: (wrap: Uint8Array, aad: Uint8Array) => Uint8Array,
): boolean {
  if (wrap.length !== WRAP_BYTES || digest.length !== 32) return false;
  try {
    const secret = unwrap(wrap, aad);
    const found = createHash("sha256").update(secret).digest();
    secret.fill(0);
    return timingSafeEqual(found, digest);
  } catch (thrown) {
    if (thrown instanceof KekError && thrown.code !== "decryption_failed") throw thrown;
    return false;
  }
}

/** The key held under a number is another one than the install's. */
export function keyMismatch(what: string, version: number, hint: string): KekError {
  return new KekError(
    "key_mismatch",
    `${what} for KEK version ${version} is not the install's: its canary does not open`,
    hint,
  );
}
