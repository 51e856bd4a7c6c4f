import type { ChangeStream } from "mongodb";
import type { Store } from "./store.ts";

/** A change stream that only says "look again": what changed is always read from the state itself. */

const WATCHED = ["kek_rotations", "kek_versions"];

/** @returns a function that stops watching. While the stream is broken, the regular beat still looks. */
export function watchChanges(store: Store, onChange: () => void, collections: string[] = WATCHED): () => Promise<void> {
  let stream: ChangeStream | undefined;
  let stopped = false;
  let retry: ReturnType<typeof setTimeout> | undefined;

  const open = () => {
    if (stopped) return;
    stream = store.db.watch([{ $match: { "ns.coll": { $in: collections } } }, { $project: { _id: 1 } }]);
    stream.on("change", onChange);
    stream.on("error", reopen);
    // Whatever happened before the stream was open is seen by this look.
    stream.once("init", onChange);
  };
  const reopen = () => {
    const broken = stream;
    stream = undefined;
    broken?.removeAllListeners();
    broken?.on("error", () => undefined);
    broken?.close().catch(() => undefined);
    if (!stopped) retry = setTimeout(open, 1000);
  };

  open();
  return async () => {
    stopped = true;
    clearTimeout(retry);
    stream?.removeAllListeners();
    stream?.on("error", () => undefined);
    await stream?.close().catch(() => undefined);
  };
}
