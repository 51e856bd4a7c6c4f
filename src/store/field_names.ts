import type { FieldName } from "../config/config.ts";

/** Which fields may hold envelopes: a name that MongoDB would read as something else, or a collection of our own, is none. */

const OWN = /^(kek_.*|process_heartbeats|audit_log|system\..*)$/;

/** What is wrong with a field's name, in words; undefined when nothing is. Pure. */
export function fieldFault({ collection, path }: FieldName): string | undefined {
  if (collection === "" || /[$\0]/.test(collection) || collection.startsWith(".") || collection.endsWith("."))
    return "its collection is no name of a collection";
  if (OWN.test(collection)) return `its collection ${collection} is this program's own, or MongoDB's`;
  const names = path.split(".");
  if (names.some((name) => name === "" || name.startsWith("$") || name.includes("\0")))
    return "its path is no path of a field";
  if (names[0] === "_id") return "its path is the record's _id, which never changes";
  return undefined;
}

/** A name in a path that MongoDB takes for a position in an array; undefined when there is none. A record itself is none. Pure. */
export function positionIn(path: string): string | undefined {
  return path
    .split(".")
    .slice(1)
    .find((name) => /^\d+$/.test(name));
}
