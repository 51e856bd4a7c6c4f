import type { Buffer } from "node:buffer";
import { KekError } from "../../errors/errors.ts";
import type { Handle } from "./cryptoki.ts";
import { TokenFault } from "./faults.ts";
import {
  isOwnKeyId,
  type KeyFacts,
  keyLabel,
  keyTemplate,
  notAsMade,
  readKey,
  readLabel,
  searchTemplate,
  versionOfLabel,
} from "./key_object.ts";
import type { OpenSession } from "./session.ts";

/** The beginning and the end of a KEK in its token, and which there are. Each function may be run again after a failure. */

/** @returns the versions of all keys in the token that are labelled as KEKs. */
export function listVersions({ module, handle }: OpenSession): number[] {
  const versions = new Set<number>();
  for (const key of module.find(handle, searchTemplate())) {
    const version = versionOfLabel(readLabel(module, handle, key));
    if (version !== undefined) versions.add(version);
  }
  return [...versions].sort((a, b) => a - b);
}

/** @returns what the token says of the keys with the version's label: none, one, or a state that nobody should be in. */
export function describeKeys({ module, handle }: OpenSession, version: number): KeyFacts[] {
  return module.find(handle, searchTemplate(keyLabel(version))).map((key) => readKey(module, handle, key));
}

export interface Wanted {
  version: number;
  installId: string;
  /** CKA_ID of the key, should it have to be made. */
  id: Buffer;
  /** The id of the key that MongoDB knows for the version, in hex: then none is made. */
  recorded: string | undefined;
}

/**
 * Makes a version's key, or finds that it was made before. Looks again afterwards: when somebody else was faster, the key
 * that was just made, which nobody has used, is destroyed.
 * @throws KekError `refused` when the label is taken by a key of another install, `key_missing` when the key that MongoDB
 * knows is not there, `hsm_unfit` when the token made the key otherwise than it was asked to.
 */
export function makeKey(open: OpenSession, wanted: Wanted): KeyFacts {
  const { version, id, recorded } = wanted;
  const there = describeKeys(open, version);
  if (there.length > 0) return theOne(open, there, wanted);
  if (recorded !== undefined) {
    throw new KekError(
      "key_missing",
      `token "${open.token.label}" does not hold ${keyLabel(version)} (id ${recorded}), which the install knows`,
      "name the token that holds it, or restore it into this one as its vendor says; a version's key is never made twice",
    );
  }
  const { module, handle, token } = open;
  const made = module.generateAesKey(handle, keyTemplate(keyLabel(version), id, true));
  const facts = readKey(module, handle, made);
  const wrong = notAsMade(facts);
  if (wrong.length > 0) {
    module.destroy(handle, made);
    throw new KekError(
      "hsm_unfit",
      `token "${token.label}" made the key otherwise than asked: ${wrong.join(", ")}; it was destroyed again`,
      "a KEK must be born in the token and never leave it: see docs/hsm for tokens that are known to do it",
    );
  }
  // None at all: a cluster that has not told all its members yet.
  if (describeKeys(open, version).length <= 1) return facts;
  module.destroy(handle, made);
  return theOne(open, describeKeys(open, version), wanted);
}

/** @throws TokenFault while the token does not show the key: the caller tries again. */
export function awaitKey(open: OpenSession, version: number): void {
  if (describeKeys(open, version).length === 0) throw new TokenFault(KEY_HANDLE_INVALID, "C_FindObjects");
}

export interface Destruction {
  /** How many keys were destroyed and seen gone. */
  destroyed: number;
  /** Keys of that label which are not the install's, by id. They are left alone. */
  strangers: string[];
}

/** @param isOurs tells whether a key is the one to destroy. @throws KekError `hsm_unfit` when it is still there afterwards. */
export function destroyKey(
  open: OpenSession,
  version: number,
  isOurs: (key: Handle, facts: KeyFacts) => boolean,
): Destruction {
  const { module, handle, token } = open;
  const outcome: Destruction = { destroyed: 0, strangers: [] };
  const find = () => module.find(handle, searchTemplate(keyLabel(version)));
  for (const key of find()) {
    const facts = readKey(module, handle, key);
    if (!isOurs(key, facts)) {
      outcome.strangers.push(facts.id);
      continue;
    }
    module.destroy(handle, key);
    outcome.destroyed += 1;
  }
  if (find().length > outcome.strangers.length) {
    throw new KekError(
      "hsm_unfit",
      `token "${token.label}" said that ${keyLabel(version)} is destroyed, and it is still there`,
      "destroy it with the token's own tool, then run the same command again",
    );
  }
  return outcome;
}

/** The name is in use: a token may be shared, a key may not. */
export function taken(tokenLabel: string, version: number, there: KeyFacts[]): KekError {
  const ids = there.map((key) => key.id || "none").join(", ");
  return new KekError(
    "refused",
    `token "${tokenLabel}" already holds a key ${keyLabel(version)} that was not made for this install (ids there: ${ids})`,
    "another install may live by it: use a token of its own for each install, or destroy that key with the token's own tool if nothing needs it",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

const KEY_HANDLE_INVALID = 0x60;

/** The key that is meant. Keys of this install that nobody has recorded were left by a run that was interrupted: they go. */
function theOne(open: OpenSession, there: KeyFacts[], { version, installId, recorded }: Wanted): KeyFacts {
  const own = there.filter((key) => key.id === recorded || isOwnKeyId(key.id, installId, version));
  const keep = own.find((key) => key.id === recorded) ?? own.sort((a, b) => (a.id < b.id ? -1 : 1))[0];
  if (keep !== undefined && own.length === there.length && (recorded === undefined || keep.id === recorded)) {
    const spare = new Set(own.filter((key) => key !== keep).map((key) => key.id));
    if (spare.size > 0) destroyKey(open, version, (_key, facts) => spare.has(facts.id));
    return keep;
  }
  throw taken(open.token.label, version, there);
}
