import { EJSON } from "bson";
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

/** @returns "refused" when the user has no right to `collMod`. @throws KekError `mongodb_away` when a majority has not taken it. */
export async function setValidator(
  store: Store,
  collection: string,
  options: ValidatorOptions,
): Promise<"set" | "refused"> {
  try {
    // A fence that the next primary does not know would be none.
    await byMajority(store, "a validator", {
      collMod: collection,
      validator: options.validator ?? {},
      validationLevel: options.validationLevel ?? "strict",
      validationAction: options.validationAction ?? "error",
    });
    return "set";
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
