import { timingSafeEqual } from "node:crypto";
import type { KekHex, ProviderName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import type { TokenSettings } from "./pkcs11/token_settings.ts";

/**
 * What holds KEKs. `env` keeps their bytes in memory, `pkcs11` keeps handles to keys that never leave a token.
 * Nothing outside this folder asks which of the two it talks to.
 *
 * The calls may answer at once or later: callers await. `wrap`, `unwrap` and `rewrap` take versions that were loaded before.
 * Where keys live outside this process, each call may also throw KekError `hsm_unavailable`: it was not done, and may be done later.
 */
export interface Provider {
  readonly name: ProviderName;

  /**
   * Who makes a new version known: the first process that holds its key, or the command that makes the key. A key in a token
   * says by its label alone nothing about whose it is.
   */
  readonly staging: "by_holders" | "by_init";

  /** Whether the thread that calls does the computing itself. Else it waits for others, and its own processor time is small. */
  readonly computes: boolean;

  /** Whether keys can be copied into a file: then `overCopy` works, and a backup of them can be verified. */
  readonly copyable: boolean;

  /** Tries out everything that is needed. @param versions that the install knows. @returns what was found. @throws KekError `hsm_unfit` naming what is missing. */
  probe(versions?: number[]): Awaitable<Capability[]>;

  /**
   * Which of these versions this provider could load a key of now. Reads the source on each call, for these versions alone.
   * @param waitMs how long the caller can wait; what takes longer ends in `hsm_unavailable`.
   */
  available(versions: number[], waitMs?: number): Awaitable<number[]>;

  /** Every version that there is a key of, known to MongoDB or not. Empty where processes stage no versions (`by_init`). */
  held(): Awaitable<number[]>;

  /**
   * Makes a version usable.
   * @param canary what its key must open, now and whenever it is found again; undefined only before the canary is made.
   * @param waitMs how long the caller can wait: a heartbeat waits for no token. The load itself continues.
   * @throws KekError `key_missing` when there is no such key, `key_invalid` when it is not an AES-256 key, `key_mismatch` when
   * it does not open the canary. On any of them the version is not loaded.
   */
  load(version: number, canary?: KeyCanary, waitMs?: number): Awaitable<void>;

  /** Makes sure that a loaded version can be used at this moment. @throws KekError as `load`. */
  check(version: number): Awaitable<void>;

  /** @returns iv(12) ‖ AES-256-GCM(KEK, iv, dek, aad)(32) ‖ tag(16). @throws KekError `version_not_loaded`. */
  wrap(dek: Uint8Array, aad: Uint8Array, version: number): Awaitable<Uint8Array>;

  /** @returns the 32 bytes of the DEK. @throws KekError `decryption_failed`, `version_not_loaded`. */
  unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number): Awaitable<Uint8Array>;

  /** @returns the same DEK under another version; the new wrap was opened again and compared. @throws KekError as `unwrap`. */
  rewrap(wrapped: Uint8Array, from: Under, to: Under): Awaitable<Uint8Array>;

  /** Releases a version: key bytes are zeroed. Releasing an unknown version does nothing. */
  release(version: number): Awaitable<void>;

  /** What is to be kept about a version's key beside its canary. Names and ids, no secret. */
  describe(version: number): Awaitable<KeyDescription | undefined>;

  /**
   * Destroys the key itself, where this provider owns it, and says what it could not reach. Run again after a crash, it finishes.
   * @param canary what the key opens: another one under the same name is left alone.
   * @throws KekError `usage` when a copy is asked for and keys cannot be copied; `refused` when another file has the copy's name.
   */
  destroy(version: number, canary: KeyCanary, options: DestroyOptions): Awaitable<DestroyOutcome>;

  /** A provider over a copy of this one's secrets. @throws KekError `usage` where keys cannot be copied into a file. */
  overCopy(file: string): Provider;

  /**
   * How an operator gives a process the key of a version: the hint of many errors.
   * @param known whether MongoDB has a canary of the version: its key exists, and one that is generated would be another key.
   */
  howToGive(version: number, known: boolean): string;

  /** How an operator makes sure that keys outlive this place: the hint of `--require-backup`. */
  howToBackUp(): string;

  /** What threads make instances of their own from: plain data, one for each of at most so many threads. */
  recipes(threads: number): Awaitable<ProviderRecipe[]>;

  /** What this process has asked of a token, and how it went; undefined where keys are in its own memory. */
  counts(): TokenCounts | undefined;

  close(): Awaitable<void>;
}

export type Awaitable<T> = T | Promise<T>;

export type ProviderRecipe =
  | { provider: "env"; keks: Record<number, KekHex>; secretsFile: string | undefined }
  | { provider: "pkcs11"; token: TokenSettings; sessions: number; separateTasks: boolean };

/** A wrap that was made before, and the SHA-256 of the 32 bytes in it. */
export interface KeyCanary {
  wrap: Uint8Array;
  aad: Uint8Array;
  digest: Uint8Array;
}

export interface Under {
  version: number;
  aad: Uint8Array;
}

/** One line of what a provider found when it tried itself out. */
export interface Capability {
  what: string;
  found: string;
  ok: boolean;
  hint?: string;
}

export interface KeyDescription {
  label: string;
  /** In hex. */
  id: string;
  mechanism: string;
}

/** Counted since this process began, over all its sessions. */
export interface TokenCounts {
  /** Pieces of work that sessions were given: a wrap with its verification, an unwrap, a look for a key. However often one is tried. */
  uses: number;
  /** What the token answered instead, by kind; also where the next try went well. */
  faults: { [kind: string]: number };
  /** Sessions opened so far, first ones and those that took the place of a lost one. */
  opened: number;
  /** Times that the module was initialised again. */
  renewals: number;
  /** Sessions open at this moment, those in the middle of work, those that nobody waits for any more, and how many there may be. */
  open: number;
  busy: number;
  hung: number;
  limit: number;
  /** Whether the last answer was that the token is unavailable. */
  unavailable: boolean;
}

export interface DestroyOptions {
  /** Keep the key in a file of its own: backups of the database may still need it. */
  keepCopy: boolean;
}

export interface DestroyOutcome {
  /** What was destroyed, by name. */
  destroyed: string[];
  /** What still holds the key and must be cleaned by hand, by name. */
  remaining: string[];
  /** The file that holds a copy of the key; undefined when none was asked for, or there was nothing to copy. */
  copy: string | undefined;
  /** What else may hold it, and this program cannot see. Which backups still need the key, the caller knows. */
  advice: string;
}

/** unwrap → wrap → unwrap and compare: a new wrap replaces an old one only after it gave the same DEK back. */
export function rewrapBy(
  keys: {
    wrap(dek: Uint8Array, aad: Uint8Array, version: number): Uint8Array;
    unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number): Uint8Array;
  },
  wrapped: Uint8Array,
  from: Under,
  to: Under,
): Uint8Array {
  const dek = keys.unwrap(wrapped, from.aad, from.version);
  try {
    const fresh = keys.wrap(dek, to.aad, to.version);
    const back = keys.unwrap(fresh, to.aad, to.version);
    const same = timingSafeEqual(back, dek);
    back.fill(0);
    if (same) return fresh;
    throw new KekError("unexpected", "a new wrap did not give the data key back", "nothing was written: report this");
  } finally {
    dek.fill(0);
  }
}
