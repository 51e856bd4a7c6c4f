import { crashPoint } from "../../errors/crash_point.ts";
import { KekError } from "../../errors/errors.ts";
import type { Handle } from "./cryptoki.ts";
import {
  attributeMismatches,
  isOwnKeyId,
  type KeyFacts,
  keyLabel,
  keyTemplate,
  newKeyId,
  readKey,
} from "./key_object.ts";
import { findKeys } from "./key_search.ts";
import type { OpenSession } from "./session.ts";
import { TokenFault } from "./token_fault.ts";

/** The beginning and the end of a KEK in its token, and which there are. Each function may be run again after a failure. */

/** @returns which of these versions have a key in the token, by its label. A listing of all keys can take minutes. */
export function listVersions(open: OpenSession, versions: number[]): number[] {
  return versions.filter((version) => findKeys(open, version, 1).length > 0);
}

/** @returns what the token says of the keys with the version's label: none, one, or a state that nobody should be in. */
export function describeKeys(open: OpenSession, version: number): KeyFacts[] {
  return findKeys(open, version).map((key) => readKey(open.module, open.handle, key));
}

/** Two runs made a key at the same moment: the one whose key is not to stay takes it out. */
export class ConcurrentKeyCreation extends KekError {}

export interface NewKey {
  version: number;
  installId: string;
}

/**
 * Makes a version's key, or finds that it was made before. Looks again afterwards: when somebody else was at it too, all
 * agree on the lowest id, and only the one that was just made here, which nobody has used, is ever destroyed.
 * @throws KekError `refused` when the label is taken by a key of another install, or two runs met; `hsm_unfit` when the token
 * made the key otherwise than it was asked to.
 */
export function makeKey(open: OpenSession, wanted: NewKey): KeyFacts {
  const { version, installId } = wanted;
  const there = describeKeys(open, version);
  if (there.length > 0) return onlyOwnKey(open, there, wanted);
  const { module, handle } = open;
  const made = module.generateAesKey(handle, keyTemplate(keyLabel(version), newKeyId(installId, version), true));
  if (import.meta.crashPoints) crashPoint("key.generated");
  const facts = readKey(module, handle, made);
  if (attributeMismatches(facts).length > 0) {
    destroyObject(open, made, facts.id, version);
    throw wrongAttributes(open, facts);
  }
  const now = describeKeys(open, version);
  // None at all: a cluster that has not told all its members yet.
  if (now.length === 0 || (now.length === 1 && now[0]?.id === facts.id)) return facts;
  if (now.some((key) => key.id < facts.id && isOwnKeyId(key.id, installId, version))) module.destroy(handle, made);
  return onlyOwnKey(open, describeKeys(open, version), wanted);
}

/**
 * The key that MongoDB knows for a version must be there, once. Others of this install under its label were left by runs
 * that were interrupted; nobody can have used them, and they go, after the known one has opened the version's canary.
 * @param recorded its id, in hex. @throws KekError `key_missing`, `key_invalid`, `key_mismatch`, `refused`.
 */
export function tidyKeys(
  open: OpenSession,
  { version, installId }: NewKey,
  recorded: string,
  opensCanary: (key: Handle) => boolean,
): KeyFacts {
  const { module, handle, token } = open;
  const found = findKeys(open, version);
  const all = found.map((key) => ({ key, facts: readKey(module, handle, key) }));
  const known = all.filter(({ facts }) => facts.id === recorded);
  const [keep] = known;
  if (keep === undefined && all.length > 0) {
    const ids = all.map(({ facts }) => facts.id || "none").join(", ");
    throw new KekError(
      "key_mismatch",
      `the key ${keyLabel(version)} in token "${token.label}" is not the install's: its id is ${ids}, not ${recorded}`,
      "put the token back that the install was made with, or restore that key into this one",
    );
  }
  if (keep === undefined) {
    throw new KekError(
      "key_missing",
      `token "${token.label}" does not hold ${keyLabel(version)} (id ${recorded}), which the install knows`,
      "name the token that holds it, or restore it into this one as its vendor says; a version's key is never made twice",
    );
  }
  if (known.length > 1) {
    throw new KekError(
      "key_invalid",
      `token "${token.label}" holds the key ${keyLabel(version)} (id ${recorded}) ${known.length} times`,
      "a backup was restored beside it: take one of the two out with the token's own tool",
    );
  }
  if (all.length === 1) return keep.facts;
  const spare = all.filter((each) => each !== keep);
  if (!spare.every(({ facts }) => isOwnKeyId(facts.id, installId, version))) {
    throw labelTaken(
      token.label,
      version,
      all.map(({ facts }) => facts),
    );
  }
  if (!opensCanary(keep.key)) {
    throw new KekError(
      "key_mismatch",
      `the key ${keyLabel(version)} (id ${recorded}) in token "${token.label}" does not open the canary of its version`,
      "nothing was changed: find out which token the install was made with",
    );
  }
  for (const { key } of spare) module.destroy(handle, key);
  return keep.facts;
}

/** @throws TokenFault while the token does not show the key: the caller tries again. */
export function requireKeyVisible(open: OpenSession, version: number): void {
  if (describeKeys(open, version).length === 0) throw new TokenFault(KEY_HANDLE_INVALID, "C_FindObjects");
}

export interface Destruction {
  /** How many keys were destroyed and seen gone. */
  destroyed: number;
  /** Keys of that label which are not the install's, by id. They are left alone. */
  foreign: string[];
}

/** @param isOurs tells whether a key is the one to destroy. @throws KekError `hsm_unfit` when it is still there afterwards. */
export function destroyKey(open: OpenSession, version: number, isOurs: (key: Handle) => boolean): Destruction {
  const { module, handle, token } = open;
  const outcome: Destruction = { destroyed: 0, foreign: [] };
  const find = () => findKeys(open, version);
  for (const key of find()) {
    if (!isOurs(key)) {
      outcome.foreign.push(readKey(module, handle, key).id);
      continue;
    }
    destroyObject(open, key, "", version);
    if (import.meta.crashPoints) crashPoint("key.destroyed");
    outcome.destroyed += 1;
  }
  if (find().length > outcome.foreign.length) {
    throw new KekError(
      "hsm_unfit",
      `token "${token.label}" said that ${keyLabel(version)} is destroyed, and it is still there`,
      "destroy it with the token's own tool, then run the same command again",
    );
  }
  return outcome;
}

/** @throws KekError `hsm_unfit` when the token does not permit it: the key stays. */
function destroyObject({ module, handle, token }: OpenSession, key: Handle, id: string, version: number): void {
  try {
    module.destroy(handle, key);
  } catch (thrown) {
    if (!(thrown instanceof TokenFault) || thrown.kind !== "unsupported") throw thrown;
    throw new KekError(
      "hsm_unfit",
      `token "${token.label}" does not permit that the key ${keyLabel(version)} is destroyed (${thrown.message}): it stays in the token`,
      `remove it with the token's own tool, as a user who may (label ${keyLabel(version)}${id === "" ? "" : `, id ${id}`}), then run the same command again`,
      { cause: thrown },
    );
  }
}

/** The name is in use: a token may be shared, a key may not. */
export function labelTaken(tokenLabel: string, version: number, there: KeyFacts[]): KekError {
  const ids = there.map((key) => key.id || "none").join(", ");
  return new KekError(
    "refused",
    `token "${tokenLabel}" already holds a key ${keyLabel(version)} that was not made for this install (ids there: ${ids})`,
    "another install may live by it: use a token of its own for each install, or destroy that key with the token's own tool if nothing needs it",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

const KEY_HANDLE_INVALID = 0x60;

/** The one key of the label, if it is this install's, and as it was asked for. */
function onlyOwnKey(open: OpenSession, there: KeyFacts[], { version, installId }: NewKey): KeyFacts {
  const { token } = open;
  const own = there.filter((key) => isOwnKeyId(key.id, installId, version));
  const [key] = own;
  if (own.length < there.length) throw labelTaken(token.label, version, there);
  if (key === undefined || own.length > 1) {
    const ids = there.map((each) => each.id).join(", ");
    throw new ConcurrentKeyCreation(
      "refused",
      `token "${token.label}" holds ${there.length} keys ${keyLabel(version)} that no version knows yet (ids: ${ids})`,
      "another pkcs11-init is at work: run it again; should it stay so with none at work, destroy all but one with the token's own tool",
    );
  }
  if (attributeMismatches(key).length > 0) throw wrongAttributes(open, key);
  return key;
}

function wrongAttributes({ token }: OpenSession, facts: KeyFacts): KekError {
  return new KekError(
    "hsm_unfit",
    `token "${token.label}" made the key ${facts.label} otherwise than asked: ${attributeMismatches(facts).join(", ")}`,
    "a KEK must be born in the token and never leave it: see docs/hsm for tokens that are known to do it",
  );
}
