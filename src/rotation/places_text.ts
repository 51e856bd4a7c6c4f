import type { EnvelopePlace } from "./database_scan.ts";

/** Where envelopes lie, in words. Pure. */

const SHOWN = 5;

export function placeName({ collection, path }: Pick<EnvelopePlace, "collection" | "path">): string {
  return path === "" ? `${collection} (whole records)` : `${collection}:${path}`;
}

/** The first places with their counts, as part of a sentence. */
export function placesText(places: Pick<EnvelopePlace, "collection" | "path" | "count">[]): string {
  const shown = places
    .slice(0, SHOWN)
    .map((place) => `${place.count} ${place.count === 1 ? "envelope" : "envelopes"} of ${placeName(place)}`);
  const more = places.length - SHOWN;
  return shown.join(", ") + (more > 0 ? ` and ${more} more places` : "");
}
