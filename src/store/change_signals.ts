import type { FindCursor } from "mongodb";
import { isNamespaceExists } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/**
 * `kek_signals`: a small capped collection whose tail says "look again". What changed is always read from the state itself,
 * and every heartbeat looks anyway, so a signal that gets lost costs a heartbeat's time and nothing else.
 *
 * A change stream would say the same, but each one makes mongod filter every entry of the oplog: in a rotation of a million
 * records that took a quarter of its time with four processes, and would take more with every further one.
 */

const NAME = "kek_signals";
const SIZE_BYTES = 16_384;
const KEPT = 16;

/** A cursor on an empty capped collection ends at once, so there is always one document. */
export async function ensureSignals(store: Store): Promise<void> {
  try {
    await store.db.createCollection(NAME, { capped: true, size: SIZE_BYTES, max: KEPT });
    await signal(store);
  } catch (thrown) {
    if (!isNamespaceExists(thrown)) throw thrown;
  }
}

/** After a change has been committed. */
export async function signal(store: Store): Promise<void> {
  await store.db.collection(NAME).insertOne({ at: new Date() }, { writeConcern: { w: 1 } });
}

/** @returns a function that stops watching. While the tail is broken, the regular beat still looks. */
export function watchSignals(store: Store, onSignal: () => void): () => Promise<void> {
  const AWAIT_MS = 10_000;
  const RETRY_MS = 1000;
  let cursor: FindCursor | undefined;
  let stopped = false;
  let retry: ReturnType<typeof setTimeout> | undefined;

  const follow = async () => {
    cursor = store.db
      .collection(NAME)
      .find({}, { tailable: true, awaitData: true, maxAwaitTimeMS: AWAIT_MS, readConcern: { level: "local" } });
    while (!stopped && (await cursor.next()) !== null) onSignal();
  };
  const run = () => {
    follow()
      .catch(() => undefined)
      .finally(() => {
        if (!stopped) retry = setTimeout(run, RETRY_MS);
      });
  };

  run();
  return async () => {
    stopped = true;
    clearTimeout(retry);
    await cursor?.close().catch(() => undefined);
  };
}
