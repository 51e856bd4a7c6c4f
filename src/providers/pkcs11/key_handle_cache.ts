import { KekError } from "../../errors/errors.ts";
import type { KeyCanary } from "../provider.ts";
import type { Handle } from "./cryptoki.ts";
import { keyLabel, readKey, unusable } from "./key_object.ts";
import { findKeys } from "./key_search.ts";
import type { OpenSession } from "./session.ts";
import type { Wrapping } from "./wrapping.ts";

/** A token showed no key of the label: believed when another session says so too. */
export class KeyNotFound extends KekError {}

/** Object handles of the keys that a thread may use: found by label and verified by their canary, once for each session. */
export class KeyHandleCache {
  readonly #wrapping: Wrapping;
  readonly #canaries = new Map<number, KeyCanary | undefined>();
  readonly #handles = new Map<number, Handle>();
  #of: OpenSession | undefined;

  constructor(wrapping: Wrapping) {
    this.#wrapping = wrapping;
  }

  /** From now on the version's key is used, and only where it opens the canary. */
  load(version: number, canary: KeyCanary | undefined): void {
    this.#canaries.set(version, canary);
    this.#handles.delete(version);
  }

  release(version: number): void {
    this.#canaries.delete(version);
    this.#handles.delete(version);
  }

  /** @throws KekError `version_not_loaded`, `key_missing`, `key_invalid`, `key_mismatch`; TokenFault. */
  handle(open: OpenSession, version: number): Handle {
    if (this.#of !== open) {
      this.#handles.clear();
      this.#of = open;
    }
    const known = this.#handles.get(version);
    if (known !== undefined) return known;
    if (!this.#canaries.has(version)) {
      throw new KekError(
        "version_not_loaded",
        `KEK version ${version} is not loaded in this process`,
        "run `certautopilot kek status` to see which versions the install uses",
      );
    }
    const key = find(open, version, this.#canaries.get(version) !== undefined);
    this.#verify(open, key, version);
    this.#handles.set(version, key);
    return key;
  }

  /** Finds and verifies the key now, also when it was found before. */
  check(open: OpenSession, version: number): void {
    const had = this.#handles.has(version) && this.#of === open;
    const key = this.handle(open, version);
    if (had) this.#verify(open, key, version);
  }

  /** Whether the version's key opens its known wrap at this moment: that tells bad bytes from a token in trouble. */
  works(open: OpenSession, version: number): boolean {
    const key = this.handle(open, version);
    const canary = this.#canaries.get(version);
    if (canary !== undefined) return this.#wrapping.opensNow(open, key, canary);
    this.#wrapping.roundTrip(open, key);
    return true;
  }

  /** A token that was put in the other's place may have a key of the same name: it must open what the first one wrapped. */
  #verify(open: OpenSession, key: Handle, version: number): void {
    const canary = this.#canaries.get(version);
    if (canary === undefined || this.#wrapping.opens(open, key, canary)) return;
    throw new KekError(
      "key_mismatch",
      `the key ${keyLabel(version)} in token "${open.token.label}" is not the install's: the canary of KEK version ${version} does not open`,
      "put the token back that the install was made with, or restore that key into this one",
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Exactly one key may have the label. @param wasMade whether the install knows a key of this version: no other will do. */
function find(open: OpenSession, version: number, wasMade: boolean): Handle {
  const { module, handle, token } = open;
  const label = keyLabel(version);
  const found = findKeys(open, version);
  const [key] = found;
  if (key === undefined) {
    throw new KeyNotFound(
      "key_missing",
      `token "${token.label}" holds no key ${label}`,
      wasMade
        ? "name the token that holds it, or restore it into this one as its vendor says; a version's key is never made twice"
        : `make it: certautopilot kek pkcs11-init --version=${version}, or name the token that holds it`,
    );
  }
  if (found.length > 1) {
    throw new KekError(
      "key_invalid",
      `token "${token.label}" holds ${found.length} keys labelled ${label}: nobody can say which one is meant`,
      `run: certautopilot kek pkcs11-init --version=${version}, which takes out what an interrupted run left; or compare their ids with key_id in kek_versions`,
    );
  }
  const wrong = unusable(readKey(module, handle, key));
  if (wrong === undefined) return key;
  throw new KekError(
    "key_invalid",
    `the key ${label} in token "${token.label}" ${wrong}`,
    "only keys made by `certautopilot kek pkcs11-init` are used",
  );
}
