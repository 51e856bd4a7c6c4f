import { EJSON } from "bson";
import type { ValidatorOptions } from "../protocol/documents.ts";
import type { Clause } from "../protocol/write_fence.ts";

/**
 * The mongosh command that takes our clause out of a collection's validator.
 * @param own the collection's own rules, which it keeps.
 */
export function removalCommand(database: string, collection: string, own: ValidatorOptions): string {
  const { validator = {}, validationLevel = "strict", validationAction = "error" } = own;
  // A validator may hold types that JavaScript has no literal for.
  const rules = Object.keys(validator).length === 0 ? "{}" : `EJSON.parse(${quoted(validator)}, { relaxed: false })`;
  const levels = `validationLevel: ${JSON.stringify(validationLevel)}, validationAction: ${JSON.stringify(validationAction)}`;
  const command = `{ collMod: ${JSON.stringify(collection)}, validator: ${rules}, ${levels} }`;
  return `db.getSiblingDB(${JSON.stringify(database)}).runCommand(${command})`;
}

function quoted(validator: Clause): string {
  return JSON.stringify(EJSON.stringify(validator, { relaxed: false }));
}
