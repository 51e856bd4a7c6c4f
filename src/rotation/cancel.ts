import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { setFence } from "../fleet/fence_keeper.ts";
import { isOpen } from "../fleet/stance.ts";
import type { RotationDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { fenceRecorder } from "../store/rotation_records.ts";
import { cancelRotation } from "../store/rotation_steps.ts";
import { newestRotation } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import type { Context } from "./context.ts";
import { waysOn } from "./ways_on.ts";

export interface Cancelled {
  rotation: RotationDoc;
  /** What is open now: the rotation itself in phase 2, or the unfinished one that a way back had come from. */
  open: RotationDoc | undefined;
}

/**
 * `kek rotate --cancel`, from any shell, whether the coordinator lives or not. The state changes at once; a coordinator
 * that lives sees it and stops after the batch in hand.
 * @throws KekError `nothing_to_cancel`, or `refused` in phase 3 with the way back.
 */
export async function cancel(context: Context): Promise<Cancelled> {
  const { store, auditor } = context;
  for (;;) {
    const { rotation: seen } = await readState(store);
    if (seen === undefined || !isOpen(seen)) {
      throw new KekError(
        "nothing_to_cancel",
        "there is nothing to cancel: no rotation is open",
        "certautopilot kek status shows the last one",
      );
    }
    const { from, to, phase } = seen;
    if (seen.state === "cancelled") {
      throw new KekError("nothing_to_cancel", `the rotation ${from} → ${to} is cancelled already`, waysOn(seen));
    }
    if (phase === 3) {
      throw new KekError(
        "refused",
        `the rotation ${from} → ${to} is in phase 3 and cannot be cancelled: every record is at version ${to}`,
        waysOn(seen),
      );
    }
    const cancelled = await cancelRotation(store, auditor, seen);
    if (cancelled === undefined) continue;
    crashPoint("cancel.done");
    await liftFence(context, from);
    const newest = await newestRotation(store);
    return { rotation: cancelled, open: newest !== undefined && isOpen(newest) ? newest : undefined };
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** The version that was being left may be written again by a rotation back. */
async function liftFence(context: Context, version: number): Promise<void> {
  const { store, auditor } = context;
  const doc = await newestRotation(store);
  if (doc === undefined || !doc.fence.versions.includes(version)) return;
  const versions = doc.fence.versions.filter((entry) => entry !== version);
  await setFence(store, await readFields(store), doc.fence, versions, fenceRecorder(store, auditor, doc));
}
