import type { FieldName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import { required } from "./arguments.ts";

/** The field that a command is about, as a word of its own: `users:token`. */
export const FIELD = {
  type: "positional",
  description: "The field, as collection:path",
  required: false,
} as const;

/** @throws KekError `usage`. */
export function fieldNamed(word: string | undefined): FieldName {
  const given = required(word, "FIELD", "users:token");
  const colon = given.indexOf(":");
  if (colon > 0 && colon < given.length - 1) return { collection: given.slice(0, colon), path: given.slice(colon + 1) };
  throw new KekError("usage", "the field is not of the form collection:path", "name it as in users:token");
}
