import { collectGarbage } from "../config/runtime.ts";
import { KekError } from "../errors/errors.ts";

const COLLECT_MS = 2000;
let collectedAt = performance.now();

/** What is due between two batches: to stop when it was asked for, and now and then to give memory back. @throws KekError `cancelled`. */
export function betweenBatches(signal: AbortSignal): void {
  if (signal.aborted)
    throw new KekError("cancelled", "stopped before it was done", "run the same command again when you are ready");
  if (performance.now() - collectedAt < COLLECT_MS) return;
  collectGarbage();
  collectedAt = performance.now();
}
