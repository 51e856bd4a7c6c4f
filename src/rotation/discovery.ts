import type { VersionDoc } from "../protocol/documents.ts";
import type { Problem } from "../protocol/problem.ts";
import { type CollectionInfo, collectionFault, readCollections } from "../store/collections.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { readState } from "../store/state.ts";
import type { Context } from "./context.ts";
import { type ScanReporter, scanDatabase } from "./database_scan.ts";
import { EnvelopeOrigin } from "./envelope_origin.ts";
import { placeName } from "./places_text.ts";
import type { ScannedData } from "./remove.ts";

/** `kek verify --discover`: where envelopes lie, whatever is registered, and what each of them was sealed for. */

export interface DiscoveredPlace {
  collection: string;
  path: string;
  version: string;
  count: number;
  registered: boolean;
  /** The field that its envelopes open at, by `<collection>:<path>`; null where none of the samples opens at any known field. */
  sealed_for: string | null;
  /** Whether this host has the key, so that they could be tried. */
  tried: boolean;
}

export interface Discovery {
  places: DiscoveredPlace[];
  problems: Problem[];
  scanned: ScannedData;
}

export async function discover(context: Context, restart: boolean, reporter: ScanReporter): Promise<Discovery> {
  const { store } = context;
  const { places, collections, records, bytes, seconds } = await scanDatabase(
    context,
    { restart, samples: true },
    reporter,
  );
  const [fields, state, listed] = await Promise.all([readFields(store), readState(store), readCollections(store)]);
  const sealed = new EnvelopeOrigin(context, state.versions);
  const found: DiscoveredPlace[] = [];
  for (const place of places) {
    const { collection, path, version, count, number } = place;
    const registered = fields.some((field) => field.collection === collection && field.path === path);
    const own = { collection, path: path.replaceAll("[]", "") };
    const others = fields.filter((field) => fieldId(field) !== fieldId(own));
    const tried = place.samples.length > 0 && (await sealed.hasKey(number));
    const sealed_for = tried ? await sealed.of(place, [own, ...others]) : null;
    found.push({ collection, path, version, count, registered, sealed_for, tried });
  }
  const problems = found.flatMap((place) => placeProblem(place, state.versions, listed, store.db.databaseName) ?? []);
  return { places: found, problems, scanned: { collections, records, bytes, seconds } };
}

/**
 * What is wrong with envelopes at a place, and what to do. Pure.
 * @param listed the collections that there are. @param database its name, for mongosh.
 */
export function placeProblem(
  place: DiscoveredPlace,
  versions: Pick<VersionDoc, "_id" | "state">[],
  listed: Pick<CollectionInfo, "name" | "type" | "capped">[],
  database: string,
): Problem | undefined {
  const { collection, path, version, count, registered, sealed_for: origin, tried } = place;
  const name = placeName(place);
  const one = count === 1;
  const what = `${count} ${one ? "envelope" : "envelopes"} of ${name} at version ${version}`;
  const problem = (message: string, hint: string): Problem => ({ code: "unregistered_field", message, hint });
  const known = versions.find(({ _id }) => String(_id) === version);
  if (known === undefined)
    return problem(
      `${what} cannot be opened: no such version is known`,
      "keep them: the kek_ collections of the install that they are from, and its key, open them; or write the values again through the library",
    );
  if (known.state === "destroyed")
    return problem(
      `${what} cannot be opened: that version is destroyed`,
      tried
        ? `this host still has its key: keep it. Restore these records and the kek_ collections from one backup, into a database of their own`
        : "a copy of its key in your secret store opens them: restore these records and the kek_ collections from one backup, into a database of their own",
    );
  if (origin !== null && origin !== name) {
    const home = origin.slice(0, origin.indexOf(":"));
    const renamed = home !== collection && !listed.some((each) => each.name === home);
    return problem(
      `${what} ${one ? "is" : "are"} sealed for ${origin}, and ${one ? "opens" : "open"} only there`,
      renamed
        ? `if ${home} was renamed to ${collection}, rename it back; in mongosh: db.getSiblingDB(${JSON.stringify(database)}).getCollection(${JSON.stringify(collection)}).renameCollection(${JSON.stringify(home)})`
        : `move the records to ${home} under their own _id, or the values to that path${known.state === "retired" ? `, with bypassDocumentValidation, for MongoDB rejects version ${version}; then rotate to the active version` : ""}; what is only a copy: remove it`,
    );
  }
  const fault = listed.find((each) => each.name === collection);
  const why = fault && collectionFault(fault);
  const unfit =
    why ??
    (path === ""
      ? "the record itself is the envelope"
      : /\[/.test(path)
        ? "in an array, or under a name with a dot"
        : undefined);
  if (unfit !== undefined)
    return problem(
      `${what} ${one ? "is" : "are"} where no rotation can rewrap ${one ? "it" : "them"}: ${unfit}`,
      "store each of these secrets at a path without arrays, in an ordinary collection, through the library; what is only a copy: remove it",
    );
  if (registered) return undefined;
  if (tried && origin === null)
    return problem(
      `${what} ${one ? "opens" : "open"} at no known field: copied from another record, or damaged`,
      "no rotation can rewrap them. What is only a copy: remove it; else restore the records from a backup",
    );
  return problem(
    `${what} ${one ? "is" : "are"} not registered: no rotation sees ${one ? "it" : "them"}`,
    tried
      ? `certautopilot kek field add ${name}`
      : `on a host that has the key of version ${version}: certautopilot kek field add ${name}`,
  );
}
