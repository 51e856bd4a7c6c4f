import { getPriority, platform, setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { crashPointAsked } from "../config/environment.ts";
import { collectGarbage } from "../config/runtime.ts";
import { armCrashPoint } from "../errors/crash_point.ts";
import { keyCanaryOf } from "../providers/canary.ts";
import { makeProvider } from "../providers/registry.ts";
import { LoginRegister } from "../store/logins.ts";
import { LeaseEnd } from "../store/rotation_lease.ts";
import { openStore } from "../store/store.ts";
import { openBatch } from "./open_batch.ts";
import { batchFault, rewrapBatch } from "./rewrap_batch.ts";
import type { WorkerReply, WorkerRequest, WorkerSettings } from "./rewrap_workers.ts";

/** A worker: a worker thread with a connection and a provider of its own. It does the batches it is given and never decides. */

const port = parentPort;
if (port === null) throw new Error("rewrap_worker is started by rewrap_workers.ts, not by hand");
if (import.meta.crashPoints) armCrashPoint(crashPointAsked());
const { database, provider: config, installId, keys, lease } = workerData as WorkerSettings;

/** A batch has limits of its own in MongoDB, of at most 10 s each; a worker that waits for longer waits for nobody. */
const LATE_MS = 30_000;
/** Records of batches, after which what they left is collected: most of it lies outside the heap that the runtime looks at. */
const COLLECT_EVERY = 4000;

const opened = (async () => {
  const store = await openStore(database, { appName: "certautopilot worker", poolSize: 1, socketMs: LATE_MS });
  const provider = makeProvider(config, new LoginRegister(store, true));
  // The threads of an HSM's sessions would inherit it: they mostly wait, and one that wakes late leaves the token idle.
  if (provider.computes) comeAfterServices();
  for (const key of keys) {
    await provider.load(key.version, keyCanaryOf(key, installId, provider.name, key.version));
  }
  return { store, provider };
})();

let sinceCollected = 0;

async function answer({ seq, job }: WorkerRequest): Promise<WorkerReply> {
  if (sinceCollected > COLLECT_EVERY) {
    sinceCollected = 0;
    collectGarbage();
  }
  try {
    const { store, provider } = await opened;
    const result =
      job.kind === "open"
        ? await openBatch(store, provider, installId, job)
        : await rewrapBatch(store, { provider, installId, job, lease: new LeaseEnd(lease) });
    sinceCollected += result.done + result.skipped + result.failed.length;
    return { seq, result };
  } catch (thrown) {
    return { seq, error: batchFault(thrown) };
  }
}

async function close(): Promise<void> {
  const { store, provider } = await opened;
  await provider.close();
  await store.client.close();
}

opened.then(
  () => port.postMessage("ready"),
  (thrown) => port.postMessage({ seq: 0, error: batchFault(thrown) }),
);
port.on("message", (request: WorkerRequest | "close") => {
  if (request === "close") {
    close()
      .catch(() => undefined)
      .finally(() => port.postMessage("closed"));
  } else {
    answer(request).then((reply) => port.postMessage(reply));
  }
});

/**
 * Of this thread alone, which computes: services on this host, and MongoDB where it shares it, come first. Not of the whole
 * process: the lease is kept by its main thread, and where services leave no idle moment that one came to its turn too late.
 */
function comeAfterServices(): void {
  const NICE = 10;
  // Elsewhere all threads share their process's priority.
  if (platform() !== "linux") return;
  try {
    if (getPriority() < NICE) setPriority(NICE);
  } catch {
    // A sandbox may forbid the system call, and a runtime may lack it: then this thread competes like any other.
  }
}
