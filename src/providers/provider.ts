import type { ProviderName } from "../config/config.ts";

/**
 * What holds KEKs. `env` keeps their bytes in memory, `pkcs11` keeps handles to keys that never leave a token.
 * Nothing outside this folder asks which of the two it talks to.
 *
 * The calls may answer at once or later: callers await. `wrap` and `unwrap` take versions that were loaded before.
 */
export interface Provider {
  readonly name: ProviderName;

  /** The versions for which this provider could load a key now. Cheap; read anew on each call. */
  available(): Awaitable<number[]>;

  /**
   * Makes a version usable. Loading a loaded version does nothing.
   * @throws KekError `key_missing` when there is no such key, `key_invalid` when it is not an AES-256 key.
   */
  load(version: number): Awaitable<void>;

  /** @returns iv(12) ‖ AES-256-GCM(KEK, iv, dek, aad)(32) ‖ tag(16). @throws KekError `version_not_loaded`. */
  wrap(dek: Uint8Array, aad: Uint8Array, version: number): Awaitable<Uint8Array>;

  /** @returns the 32 bytes of the DEK. @throws KekError `envelope_does_not_open`, `version_not_loaded`. */
  unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number): Awaitable<Uint8Array>;

  /** Gives a version up: key bytes are zeroed. Forgetting an unknown version does nothing. */
  forget(version: number): Awaitable<void>;

  /** Destroys the key itself, where this provider owns it, and says what it could not reach. */
  destroy(version: number): Awaitable<DestroyOutcome>;

  close(): Awaitable<void>;
}

export type Awaitable<T> = T | Promise<T>;

export interface DestroyOutcome {
  /** What was destroyed, by name. */
  destroyed: string[];
  /** What still holds the key and must be cleaned by hand, by name. */
  remaining: string[];
}
