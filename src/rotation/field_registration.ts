import type { FieldName } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { audited } from "../store/audit_log.ts";
import { countEnvelopes, NO_VERSION, takeCensus } from "../store/census.ts";
import { readCollections } from "../store/collections.ts";
import { fieldId, listField, missingFields, prepareField, unlistField } from "../store/fields.ts";
import { newestRotation } from "../store/rotations.ts";
import { isOpen } from "../store/state_rules.ts";
import { dropIndex } from "../store/version_index.ts";
import type { Context } from "./context.ts";

/** `kek field add` and `kek field remove`: what an operator does where no process of the fleet registers a field. */

/** @throws KekError as `prepareField`. */
export async function addField(
  { store, auditor }: Context,
  field: FieldName,
): Promise<{ added: boolean; envelopes: number }> {
  await prepareField(store, field);
  crashPoint("field.prepared");
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
  const open = await newestRotation(store);
  if (open !== undefined && isOpen(open))
    throw new KekError(
      "refused",
      `the rotation ${open.from} → ${open.to} is open, and counts ${id}`,
      "finish it first",
    );
  const [collection] = await readCollections(store, [field.collection]);
  const rows = (await takeCensus(store, [field])).filter(({ version }) => version !== NO_VERSION);
  const count = rows.reduce((total, row) => total + row.count, 0);
  // What a view shows lies in another collection, and is counted there.
  if (count > 0 && collection?.type !== "view")
    throw new KekError(
      "refused",
      `${id} holds ${count} envelopes: unregistered, no rotation would rewrap them, and they would be lost with their key`,
      `remove the values first, or leave it registered: certautopilot kek field list`,
    );
  if ((await missingFields(store, [field])).length > 0)
    throw new KekError("usage", `${id} is not registered`, "certautopilot kek field list  shows those that are");
  // Before the list: an index without a field in the list looks like a field that was lost from it.
  await dropIndex(store, field);
  crashPoint("field.unindexed");
  await audited(store, auditor, async (session) => {
    if (!(await unlistField(store, field, session))) return undefined;
    return [{ event: "field.removed", data: { field: id }, result: true }];
  });
}
