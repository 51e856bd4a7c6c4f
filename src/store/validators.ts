import { setTimeout as sleep } from "node:timers/promises";
import { EJSON } from "bson";
import { KekError } from "../errors/errors.ts";
import type { ValidatorOptions } from "../protocol/documents.ts";
import { serverCode } from "./mongodb_errors.ts";
import { byMajority, type Store } from "./store.ts";

/** Reads and sets collection validators. `collMod` knows no condition: see docs/protocol.md. */

export async function readValidators(store: Store, collections: string[]): Promise<Map<string, ValidatorOptions>> {
  const found = new Map<string, ValidatorOptions>();
  const listed = store.db.listCollections({ name: { $in: collections } }, { nameOnly: false });
  for await (const entry of listed) {
    found.set(entry.name, validatorIn((entry as { options?: ValidatorOptions }).options));
  }
  return found;
}

/** Of a collection's options, those that are about its validator. Pure. */
export function validatorIn(options: ValidatorOptions = {}): ValidatorOptions {
  return {
    ...(options.validator === undefined ? {} : { validator: options.validator }),
    ...(options.validationLevel === undefined ? {} : { validationLevel: options.validationLevel }),
    ...(options.validationAction === undefined ? {} : { validationAction: options.validationAction }),
  };
}

/**
 * It waits for every transaction on the collection, and whoever writes to the collection meanwhile waits behind it: so it waits
 * for a moment only, lets them pass, and comes again for longer each time.
 * @param asked `may`, before each try: a fence that no longer fits must not be set; `tell` hears once that it waits.
 * @returns "refused" when the user has no right to `collMod`.
 * @throws KekError `mongodb_unavailable` when a majority has not taken it, and when transactions keep the collection locked.
 */
export async function setValidator(
  store: Store,
  collection: string,
  options: ValidatorOptions,
  { may, tell }: { may: () => Promise<boolean>; tell: (message: string) => void },
): Promise<"set" | "refused" | "given up"> {
  const command = { collMod: collection, ...inFull(options) };
  let told = false;
  for (const limitMs of LOCK_MS) {
    if (!(await may())) return "given up";
    try {
      // A fence that the next primary does not know would be none.
      await byMajority(store, "a validator", { ...command, maxTimeMS: limitMs });
      return "set";
    } catch (thrown) {
      if (serverCode(thrown) === UNAUTHORIZED) return "refused";
      // Done, and not confirmed in time: a majority may be slow.
      const unconfirmed = thrown instanceof KekError && ranOut(thrown.cause);
      if (!unconfirmed && !ranOut(thrown)) throw thrown;
      if (unconfirmed && (await confirmed(store, collection, options))) return "set";
      if (!unconfirmed && !told) {
        tell(`the validator of ${collection} is not set yet: a transaction holds the collection; waiting for it`);
        told = true;
      }
    }
    await sleep(PASS_MS);
  }
  throw new KekError(
    "mongodb_unavailable",
    `the validator of ${collection} could not be set: transactions have kept the collection locked`,
    "run the same command again when no long transaction is at work on it (db.currentOp() shows them)",
  );
}

/** Whether this user may: MongoDB looks at that first, and a `collMod` of nothing changes nothing. */
export async function maySetValidator(store: Store, collection: string): Promise<boolean> {
  try {
    await store.db.command({ collMod: collection, maxTimeMS: LOCK_MS[0] });
    return true;
  } catch (thrown) {
    if (serverCode(thrown) === UNAUTHORIZED) return false;
    // A collection that is not there yet has nothing to be set.
    if (ranOut(thrown) || serverCode(thrown) === NAMESPACE_NOT_FOUND) return true;
    throw thrown;
  }
}

/** How many documents of a collection do not satisfy a validator. */
export async function countViolations(
  store: Store,
  collection: string,
  validator: Record<string, unknown>,
): Promise<number> {
  return await store.db.collection(collection).countDocuments({ $nor: [validator] }, { limit: 1 });
}

/** Extended JSON keeps every BSON type of a validator, so that it is restored exactly. */
export function freezeOptions(options: ValidatorOptions): string {
  return EJSON.stringify(options, { relaxed: false });
}

export function thawOptions(frozen: string): ValidatorOptions {
  return EJSON.parse(frozen, { relaxed: false }) as ValidatorOptions;
}

/** Whether two settings mean the same to MongoDB: an absent member is the default. */
export function sameOptions(a: ValidatorOptions, b: ValidatorOptions): boolean {
  return freezeOptions(inFull(a)) === freezeOptions(inFull(b));
}

// ---------------------------------------------------------------------------------------------------------------------

/** MongoDB ends a transaction after 60 s, unless told otherwise. */
const LOCK_MS = [500, 1000, 2000, 4000, 8000, 65_000] as const;
const PASS_MS = 1000;
const UNAUTHORIZED = 13;
const NAMESPACE_NOT_FOUND = 26;

/** With MongoDB's defaults for what is absent. */
function inFull({ validator = {}, validationLevel = "strict", validationAction = "error" }: ValidatorOptions) {
  return { validator, validationLevel, validationAction };
}

function ranOut(thrown: unknown): boolean {
  const MAX_TIME_EXPIRED = 50;
  return serverCode(thrown) === MAX_TIME_EXPIRED;
}

/**
 * Waits for a majority without a lock: a write that changes nothing is confirmed when all before it is. A primary that did not know
 * of the validator would show it no more.
 */
async function confirmed(store: Store, collection: string, options: ValidatorOptions): Promise<boolean> {
  const nothing = { q: { _id: "nothing" }, u: { $set: { nothing: true } } };
  await byMajority(store, "a validator", { update: "kek_rotations", updates: [nothing] });
  return sameOptions((await readValidators(store, [collection])).get(collection) ?? {}, options);
}
