import type { FieldName } from "../config/config.ts";
import { splitDocuments } from "../envelope/raw_record.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { nextStepsText } from "../protocol/next_steps.ts";
import { isOpen } from "../protocol/phases.ts";
import { NO_VERSION } from "../protocol/version_count.ts";
import { audited } from "../store/audit_log.ts";
import { readCollections } from "../store/collections.ts";
import { checkField, fieldId, listField, missingFields, prepareField, unlistField } from "../store/fields.ts";
import { envelopesOf } from "../store/rewrap_writes.ts";
import { newestRotation } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { countEnvelopes, countVersions } from "../store/version_counts.ts";
import { dropIndex } from "../store/version_index.ts";
import type { Context } from "./context.ts";
import { EnvelopeOrigin } from "./envelope_origin.ts";
import { PlaceCounts } from "./scan_counts.ts";

/** `kek field add` and `kek field remove`: what an operator does where no process of the fleet registers a field. */

/** @throws KekError as `prepareField`; `refused` when the envelopes that are there open at another place. */
export async function addField(context: Context, field: FieldName): Promise<{ added: boolean; envelopes: number }> {
  const { store, auditor } = context;
  await checkField(store, field);
  await refuseForeign(context, field);
  await prepareField(store, field);
  if (import.meta.crashPoints) crashPoint("field.prepared");
  const added = await audited(store, auditor, async (session) => {
    if (!(await listField(store, field, auditor.actor, session))) return undefined;
    return [{ event: "field.added", data: { field: fieldId(field) }, result: true }];
  });
  return { added: added !== undefined, envelopes: await countEnvelopes(store, field) };
}

/**
 * Counted by reading the collection where the index cannot be relied on.
 * @throws KekError `refused` while the field holds anything, or a rotation is open; `usage` for one that is not registered.
 */
export async function removeField({ store, auditor }: Context, field: FieldName): Promise<void> {
  const id = fieldId(field);
  if ((await missingFields(store, [field])).length > 0)
    throw new KekError("usage", `${id} is not registered`, "certautopilot kek field list  shows those that are");
  const open = await newestRotation(store);
  if (open !== undefined && isOpen(open))
    throw new KekError(
      "refused",
      `the rotation ${open.from} → ${open.to} is open, and counts ${id}`,
      nextStepsText(open),
    );
  const [collection] = await readCollections(store, [field.collection]);
  const rows = (await countVersions(store, [field])).filter(({ version }) => version !== NO_VERSION);
  const count = rows.reduce((total, row) => total + row.count, 0);
  // What a view shows lies in another collection, and is counted there.
  if (count > 0 && collection?.type !== "view")
    throw new KekError(
      "refused",
      `${id} holds ${count} envelopes: unregistered, no rotation would rewrap them, and they would be lost with their key`,
      "remove the values first, or leave it registered",
    );
  // Before the list: an index without a field in the list looks like a field that was lost from it.
  await dropIndex(store, field);
  if (import.meta.crashPoints) crashPoint("field.unindexed");
  await audited(store, auditor, async (session) => {
    if (!(await unlistField(store, field, session))) return undefined;
    return [{ event: "field.removed", data: { field: id }, result: true }];
  });
}

// ---------------------------------------------------------------------------------------------------------------------

/** So many of the records that are there are tried. */
const TRIED = 20;

/** A field of copies would stop every rotation: none of them can be rewrapped. Without the key nothing is known, and nothing refused. */
async function refuseForeign(context: Context, field: FieldName): Promise<void> {
  const { store } = context;
  const sealed = new EnvelopeOrigin(context, (await readState(store)).versions);
  let tried = 0;
  for await (const { bytes } of envelopesOf(store, field, TRIED)) {
    for (const raw of splitDocuments(bytes)) {
      const tally = new PlaceCounts(field.collection, [], true);
      tally.addRecord(raw);
      for (const place of tally.places) {
        if (place.path !== field.path || !(await sealed.hasKey(place.number))) continue;
        if ((await sealed.of(place, [field])) !== null) return;
        tried += 1;
      }
    }
    break;
  }
  if (tried === 0) return;
  throw new KekError(
    "refused",
    `none of the first ${tried} envelopes of ${fieldId(field)} opens there: they were sealed for another record, field or collection`,
    "certautopilot kek verify --discover  says where they open",
  );
}
