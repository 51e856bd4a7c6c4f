import { deserialize } from "bson";
import { dekAad } from "../envelope/aad.ts";
import { idBsonOf } from "../envelope/raw_record.ts";
import { KekError } from "../errors/errors.ts";
import { loadProved } from "../fleet/keystore.ts";
import type { Problem } from "../fleet/readiness.ts";
import { type CollectionInfo, collectionFault, readCollections } from "../store/collections.ts";
import type { FieldDoc, VersionDoc } from "../store/documents.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { readState } from "../store/state.ts";
import type { Context } from "./context.ts";
import { type EnvelopePlace, type Sample, type ScanReporter, scanDatabase } from "./database_scan.ts";
import { placeName } from "./places_text.ts";
import type { ScannedData } from "./remove.ts";

/** `kek verify --discover`: where envelopes lie, whatever is registered, and what each of them was sealed for. */

export interface DiscoveredPlace {
  collection: string;
  path: string;
  version: string;
  count: number;
  registered: boolean;
  /** The field that its envelopes open at, by `<collection>:<path>`; null where no key here opens one at any known field. */
  sealed_for: string | null;
}

export interface Discovery {
  places: DiscoveredPlace[];
  problems: Problem[];
  scanned: ScannedData;
}

export async function discover(context: Context, anew: boolean, reporter: ScanReporter): Promise<Discovery> {
  const { store } = context;
  const { places, collections, records, bytes, seconds } = await scanDatabase(context, anew, reporter);
  const [fields, state, listed] = await Promise.all([readFields(store), readState(store), readCollections(store)]);
  const sealed = new SealedFor(context, state.versions, fields);
  const found: DiscoveredPlace[] = [];
  for (const place of places) {
    const { collection, path, version, count } = place;
    const registered = fields.some((field) => field.collection === collection && field.path === path);
    found.push({ collection, path, version, count, registered, sealed_for: await sealed.of(place) });
  }
  const problems = found.flatMap((place) => placeProblem(place, state.versions, listed) ?? []);
  return { places: found, problems, scanned: { collections, records, bytes, seconds } };
}

/**
 * What is wrong with envelopes at a place, and what to do. Pure.
 * @param listed the collections that there are.
 */
export function placeProblem(
  place: DiscoveredPlace,
  versions: Pick<VersionDoc, "_id" | "state">[],
  listed: Pick<CollectionInfo, "name" | "type" | "capped">[],
): Problem | undefined {
  const { collection, path, version, count, registered, sealed_for: origin } = place;
  const name = placeName(place);
  const what = `${count} ${count === 1 ? "envelope" : "envelopes"} of ${name} at version ${version}`;
  const are = count === 1 ? "is" : "are";
  const problem = (message: string, hint: string): Problem => ({ code: "unregistered_field", message, hint });
  const known = versions.find(({ _id }) => String(_id) === version);
  if (known === undefined || known.state === "destroyed")
    return problem(
      `${what} cannot be opened: ${known === undefined ? "no such version is known" : "its key was destroyed"}`,
      "restore these records from a backup with the key that it needs, or remove the values",
    );
  if (origin !== null && origin !== name) {
    const home = origin.slice(0, origin.indexOf(":"));
    const renamed = home !== collection && !listed.some((each) => each.name === home);
    return problem(
      `${what} ${are} sealed for ${origin}, and ${count === 1 ? "opens" : "open"} only there`,
      renamed
        ? `if ${home} was renamed to ${collection}, rename it back; in mongosh: db.getCollection(${JSON.stringify(collection)}).renameCollection(${JSON.stringify(home)})`
        : `move the records to ${home} under their own _id, or the values to that path; what is only a copy: remove it`,
    );
  }
  if (registered) return undefined;
  const fault = listed.find((each) => each.name === collection);
  const why = fault && collectionFault(fault);
  if (path === "" || path.includes("[]") || why !== undefined)
    return problem(
      `${what} ${are} where no rotation can rewrap ${count === 1 ? "it" : "them"}: ${why ?? (path === "" ? "the record itself is the envelope" : "in an array")}`,
      "store each of these secrets at a path without arrays, in a collection of its own kind, through the library",
    );
  return problem(
    `${what} ${are} not registered: no rotation sees ${count === 1 ? "it" : "them"}`,
    `certautopilot kek field add ${name}`,
  );
}

// ---------------------------------------------------------------------------------------------------------------------

/** Tries samples at the places that an envelope could have been sealed for. */
class SealedFor {
  readonly #context: Context;
  readonly #fields: FieldDoc[];
  readonly #loadable: Map<number, VersionDoc>;
  readonly #loaded = new Map<number, boolean>();

  constructor(context: Context, versions: VersionDoc[], fields: FieldDoc[]) {
    this.#context = context;
    this.#fields = fields;
    this.#loadable = new Map(versions.filter(({ state }) => state !== "destroyed").map((doc) => [doc._id, doc]));
  }

  async of(place: EnvelopePlace): Promise<string | null> {
    if (!(await this.#load(place.number))) return null;
    const plain = place.path.replaceAll("[]", "");
    const own = { collection: place.collection, path: plain };
    const others = this.#fields.filter((field) => fieldId(field) !== fieldId(own));
    for (const candidate of [own, ...others]) {
      for (const sample of place.samples) {
        if (await this.#opens(sample, place.number, candidate)) return fieldId(candidate);
      }
    }
    return null;
  }

  /** Without the key of a version nothing is learnt of its envelopes. */
  async #load(version: number): Promise<boolean> {
    const known = this.#loaded.get(version);
    if (known !== undefined) return known;
    const doc = this.#loadable.get(version);
    const loaded = doc !== undefined && (await this.#proved(doc));
    this.#loaded.set(version, loaded);
    return loaded;
  }

  async #proved(doc: VersionDoc): Promise<boolean> {
    const { provider, install } = this.#context;
    try {
      await loadProved(provider, install.install_id, doc);
      return true;
    } catch (thrown) {
      if (thrown instanceof KekError && ["key_missing", "key_mismatch"].includes(thrown.code)) return false;
      throw thrown;
    }
  }

  async #opens(
    { record, envelope }: Sample,
    version: number,
    field: { collection: string; path: string },
  ): Promise<boolean> {
    const { provider, install } = this.#context;
    const { wrapped_dek: wrap } = deserialize(envelope, { promoteBuffers: true });
    if (!(wrap instanceof Uint8Array)) return false;
    try {
      const place = { collection: field.collection, idBson: idBsonOf(record), path: field.path };
      const dek = await provider.unwrap(wrap, dekAad(install.install_id, provider.name, version, place), version);
      dek.fill(0);
      return true;
    } catch (thrown) {
      if (thrown instanceof KekError && ["envelope_does_not_open", "envelope_invalid"].includes(thrown.code))
        return false;
      throw thrown;
    }
  }
}
