import { setTimeout as sleep } from "node:timers/promises";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { setWriteFence } from "../fleet/write_fence_setter.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { CANCEL_COMMAND, nextStepsText, resumeCommand } from "../protocol/next_steps.ts";
import { isOpen } from "../protocol/phases.ts";
import { readFields } from "../store/fields.ts";
import { fenceRecorder } from "../store/rotation_records.ts";
import { cancelRotation } from "../store/rotation_steps.ts";
import { hasLifted, newestRotation } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { seconds } from "../util/duration.ts";
import { type Context, lateWriteMs } from "./context.ts";

/** How long a coordinator that has lifted the fence is given to reach phase 2. */
const PATIENCE_MS = 3000;

export interface Cancelled {
  rotation: RotationDoc;
  /** What is open now: the rotation itself in phase 2, or the unfinished one that a reverse rotation had come from. */
  open: RotationDoc | undefined;
}

/**
 * `kek rotate --cancel`, from any shell, whether the coordinator lives or not. The state changes at once; a coordinator
 * that lives sees it and stops after the batch in hand.
 * @param tell hears what it waits for.
 * @param own for Ctrl-C: the rotation as its command took the lease. What another leads by now is not this one's to cancel.
 * @throws KekError `nothing_to_cancel`, or `refused` with the way on: in phase 3, and in phase 1 of a reverse rotation that lifted the fence.
 */
export async function cancel(context: Context, tell: (message: string) => void, own?: RotationDoc): Promise<Cancelled> {
  const { store, auditor } = context;
  const until = performance.now() + PATIENCE_MS;
  let raised = false;
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
    if (own !== undefined && (seen._id !== own._id || seen.lease?.token !== own.lease?.token)) {
      throw new KekError(
        "nothing_to_cancel",
        `this command leads no rotation any more: ${from} → ${to} is led by another, and continues`,
        `stop it all the same: ${CANCEL_COMMAND}`,
      );
    }
    if (seen.state === "cancelled") {
      throw new KekError("nothing_to_cancel", `the rotation ${from} → ${to} is cancelled already`, nextStepsText(seen));
    }
    if (phase === 3) {
      throw new KekError(
        "refused",
        `the rotation ${from} → ${to} is in phase 3 and cannot be cancelled: every record is at version ${to}`,
        nextStepsText(seen),
      );
    }
    if (phase === 1 && seen.reverses === undefined && (await hasLifted(store, seen, to))) {
      // A coordinator that lives continues to phase 2 at once, and there it can be cancelled.
      if (performance.now() < until) {
        await sleep(50);
        continue;
      }
      throw new KekError(
        "refused",
        `the reverse rotation ${from} → ${to} cannot be cancelled in phase 1 any more: MongoDB accepts writes under version ${to} again, and no process would read them`,
        `go on: ${resumeCommand(seen)}  and cancel it in phase 2, or let it complete`,
      );
    }
    const recorded = seen.fence.versions.includes(from);
    if (seen.repairs === true && !(recorded && raised) && (recorded || (await hasLifted(store, seen, from)))) {
      // Processes are about to give the retired version up again: no late write may come after them.
      const versions = recorded ? seen.fence.versions : [...seen.fence.versions, from];
      const recorder = fenceRecorder(store, auditor, seen);
      const outcome = await setWriteFence(store, {
        fields: await readFields(store),
        before: seen.fence,
        versions,
        recorder,
        tell,
      });
      raised = outcome !== undefined;
      if (outcome !== undefined && outcome.unfenced.length > 0)
        await waitForLateWrites(context, outcome.unfenced, tell);
      continue;
    }
    const cancelled = await cancelRotation(store, auditor, seen);
    if (cancelled === undefined) continue;
    if (import.meta.crashPoints) crashPoint("cancel.done");
    await liftFenceOfCancelled(context, from, tell);
    const newest = await newestRotation(store);
    return { rotation: cancelled, open: newest !== undefined && isOpen(newest) ? newest : undefined };
  }
}

/** Where MongoDB cannot be made to reject a version, only time ends the writes that are on their way. */
async function waitForLateWrites(
  context: Context,
  unfenced: { collection: string; reason: string }[],
  tell: (message: string) => void,
): Promise<void> {
  const waitMs = await lateWriteMs(context);
  const names = unfenced.map(({ collection, reason }) => `${collection} (${reason})`).join(", ");
  tell(`no write fence on ${names}: waiting ${seconds(waitMs)} for writes that are on their way`);
  await sleep(waitMs);
}

/**
 * The version that was being left may be written again by a rotation back. Whoever has resumed the rotation meanwhile may
 * have set the fence for good, and processes may give the version up behind it: then it stays.
 */
export async function liftFenceOfCancelled(
  context: Pick<Context, "store" | "auditor">,
  version: number,
  tell: (message: string) => void,
): Promise<void> {
  const { store, auditor } = context;
  const doc = await newestRotation(store);
  // Stale envelopes that were not brought back stay behind the fence.
  if (doc?.state !== "cancelled" || doc.repairs === true || !doc.fence.versions.includes(version)) return;
  const versions = doc.fence.versions.filter((entry) => entry !== version);
  await setWriteFence(store, {
    fields: await readFields(store),
    before: doc.fence,
    versions,
    recorder: fenceRecorder(store, auditor, doc),
    tell,
  });
}
