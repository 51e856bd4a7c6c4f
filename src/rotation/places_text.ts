import type { EnvelopePlace } from "./scan_counts.ts";

/** Where envelopes lie, in words. Pure. */

const SHOWN = 5;

export function placeName({ collection, path }: Pick<EnvelopePlace, "collection" | "path">): string {
  return path === "" ? `${collection} (whole records)` : `${collection}:${path}`;
}

/** The first places with their counts and a verb, as part of a sentence: "3 envelopes of users:token are". */
export function placesAre(places: Pick<EnvelopePlace, "collection" | "path" | "count">[]): string {
  const one = places.length === 1 && places[0]?.count === 1;
  return `${placesText(places)} ${one ? "is" : "are"}`;
}

/** The first places with their counts. */
export function placesText(places: Pick<EnvelopePlace, "collection" | "path" | "count">[]): string {
  const shown = places
    .slice(0, SHOWN)
    .map((place) => `${place.count} ${place.count === 1 ? "envelope" : "envelopes"} of ${placeName(place)}`);
  const more = places.length - SHOWN;
  return shown.join(", ") + (more > 0 ? ` and ${more} more places` : "");
}
