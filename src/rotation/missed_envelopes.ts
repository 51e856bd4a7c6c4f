import { KekError } from "../errors/errors.ts";
import type { FieldCount, FieldDoc } from "../protocol/documents.ts";
import { readCollections } from "../store/collections.ts";
import { readFieldFacts } from "../store/field_facts.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { rotationHistory } from "../store/rotations.ts";
import { countAt, countEnvelopes } from "../store/version_counts.ts";
import type { Context, Reporter } from "./context.ts";
import { scanDatabase } from "./database_scan.ts";
import type { LeaseKeeper } from "./lease_keeper.ts";
import { placesAre } from "./places_text.ts";
import type { EnvelopePlace } from "./scan_counts.ts";

/**
 * Before processes give a version up: whether the zero count is of the records that there were. A collection that was renamed or
 * replaced, or a field that lost its envelopes on the way, counts as zero as well.
 */

/** A field that lost its envelopes, and not by being rewrapped. */
export interface LostField {
  field: string;
  why: string;
}

/**
 * Pure.
 * @param before the rotation's counts when this coordinator began. @param after the counts at the end.
 * @param total how many envelopes each field has by now, by `<collection>:<path>`.
 * @param uuids the collections there are now, by name.
 */
export function lostFields(
  before: FieldCount[],
  after: FieldCount[],
  total: ReadonlyMap<string, number>,
  uuids: ReadonlyMap<string, string | undefined>,
): LostField[] {
  return after.flatMap(({ field, done, uuid }) => {
    const had = before.find((row) => row.field === field);
    const seen = Math.max(done, (had?.done ?? 0) + (had?.remaining ?? 0));
    if (seen === 0) return [];
    const collection = field.slice(0, field.indexOf(":"));
    if (!uuids.has(collection)) return [{ field, why: `there is no collection ${collection} any more` }];
    const now = uuids.get(collection);
    if (uuid !== undefined && now !== undefined && uuid !== now)
      return [{ field, why: `${collection} is another collection now` }];
    return (total.get(field) ?? 0) === 0 ? [{ field, why: "it holds no envelope any more" }] : [];
  });
}

/**
 * Looks where the zero count did not. Where a field was lost, the whole database is read.
 * @throws KekError `incomplete` naming each place with envelopes of the version. @throws as `LeaseKeeper.check`.
 */
export async function refuseMissed(
  context: Context,
  {
    lease,
    from,
    before,
    after,
    reporter,
  }: { lease: LeaseKeeper; from: number; before: FieldCount[]; after: FieldCount[]; reporter: Reporter },
): Promise<void> {
  const { store } = context;
  const fields = await readFields(store);
  const { unregistered } = await readFieldFacts(store, fields);
  const missed: Pick<EnvelopePlace, "collection" | "path" | "count">[] = [];
  for (const field of unregistered) {
    const count = await countAt(store, field, from);
    if (count > 0) missed.push({ ...field, count });
  }
  if (missed.length > 0) throw incomplete(from, missed);
  const uuids = new Map((await readCollections(store)).map(({ name, uuid }) => [name, uuid]));
  const total = new Map<string, number>();
  for (const field of fields) total.set(fieldId(field), await countEnvelopes(store, field));
  const lost = [...lostFields(before, after, total, uuids), ...(await unlistedFields(context, fields))];
  if (lost.length === 0) return;
  for (const { field, why } of lost) reporter.note(`${field} had envelopes, and ${why}`);
  reporter.note(`reading every collection for envelopes of version ${from} before it is left`);
  const scanning = { note: reporter.note, progress: () => lease.check() };
  const { places, written } = await scanDatabase(context, { version: from, restart: true }, scanning);
  lease.check();
  const left = [...places.filter(({ number }) => number === from), ...written];
  if (left.length > 0) throw incomplete(from, left);
  reporter.note(`no envelope of version ${from} is left in any collection`);
}

// ---------------------------------------------------------------------------------------------------------------------

/** What earlier rotations moved and nobody lists now; and where nothing is listed at all, nothing would be missed. */
async function unlistedFields({ store }: Context, fields: FieldDoc[]): Promise<LostField[]> {
  const NOTHING = { field: "the database", why: "no field is registered now" };
  const [, ...earlier] = await rotationHistory(store, EARLIER);
  const had = earlier.flatMap((rotation) => rotation.fields.filter(({ done }) => done > 0).map(({ field }) => field));
  const unlisted = [...new Set(had)].filter((field) => !fields.some(({ _id }) => _id === field));
  return [
    ...unlisted.map((field) => ({ field, why: "it is not registered now" })),
    ...(fields.length === 0 ? [NOTHING] : []),
  ];
}

/** A field that was unregistered on purpose is asked about by so many rotations. */
const EARLIER = 3;

function incomplete(from: number, places: Pick<EnvelopePlace, "collection" | "path" | "count">[]): KekError {
  return new KekError(
    "incomplete",
    `version ${from} is not retired: ${placesAre(places)} under it, where no rotation rewraps them`,
    "if a collection was renamed, rename it back; certautopilot kek verify --discover  names each place and what to do; then run the same command again",
  );
}
