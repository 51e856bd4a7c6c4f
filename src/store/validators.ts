import { EJSON } from "bson";
import { KekError } from "../errors/errors.ts";
import { msSince, now } from "../errors/moment.ts";
import type { ValidatorOptions } from "./documents.ts";
import { serverCode } from "./failures.ts";
import { byMajority } from "./majority.ts";
import type { Store } from "./store.ts";

/** Reads and sets collection validators. `collMod` knows no condition: see DESIGN.md section 5. */

export async function readValidators(store: Store, collections: string[]): Promise<Map<string, ValidatorOptions>> {
  const found = new Map<string, ValidatorOptions>();
  const listed = store.db.listCollections({ name: { $in: collections } }, { nameOnly: false });
  for await (const entry of listed) {
    const options = (entry as { options?: ValidatorOptions }).options ?? {};
    found.set(entry.name, {
      ...(options.validator === undefined ? {} : { validator: options.validator }),
      ...(options.validationLevel === undefined ? {} : { validationLevel: options.validationLevel }),
      ...(options.validationAction === undefined ? {} : { validationAction: options.validationAction }),
    });
  }
  return found;
}

/**
 * It waits for every transaction on the collection, and whoever comes to the collection meanwhile waits behind it: so it waits
 * for a moment only, lets them pass, and comes again.
 * @returns "refused" when the user has no right to `collMod`.
 * @throws KekError `mongodb_away` when a majority has not taken it, and when it did not come to its turn in 90 s.
 */
export async function setValidator(
  store: Store,
  collection: string,
  options: ValidatorOptions,
): Promise<"set" | "refused"> {
  try {
    const command = {
      collMod: collection,
      validator: options.validator ?? {},
      validationLevel: options.validationLevel ?? "strict",
      validationAction: options.validationAction ?? "error",
      maxTimeMS: LOCK_MS,
    };
    for (const began = now(); ; await new Promise((resolve) => setTimeout(resolve, PASS_MS))) {
      try {
        // A fence that the next primary does not know would be none.
        await byMajority(store, "a validator", command);
        return "set";
      } catch (thrown) {
        if (!ranOut(thrown) || msSince(began) > LONGEST_MS) throw thrown;
      }
    }
  } catch (thrown) {
    const UNAUTHORIZED = 13;
    if (serverCode(thrown) === UNAUTHORIZED) return "refused";
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
  const normal = (options: ValidatorOptions) =>
    freezeOptions({
      validator: options.validator ?? {},
      validationLevel: options.validationLevel ?? "strict",
      validationAction: options.validationAction ?? "error",
    });
  return normal(a) === normal(b);
}

// ---------------------------------------------------------------------------------------------------------------------

const LOCK_MS = 500;
const PASS_MS = 1000;
/** MongoDB ends a transaction after 60 s, unless told otherwise. */
const LONGEST_MS = 90_000;

/** By its own limit: while it waited for the lock, or, done already, for a majority. */
function ranOut(thrown: unknown): boolean {
  const MAX_TIME_EXPIRED = 50;
  return serverCode(thrown instanceof KekError ? thrown.cause : thrown) === MAX_TIME_EXPIRED;
}
