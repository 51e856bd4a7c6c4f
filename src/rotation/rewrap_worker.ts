import { parentPort, workerData } from "node:worker_threads";
import { proofOf } from "../providers/canary.ts";
import { makeProvider } from "../providers/registry.ts";
import { openStore } from "../store/store.ts";
import type { LaneData, LaneReply, LaneRequest } from "./lanes.ts";
import { collectGarbage } from "./memory.ts";
import { batchFault, rewrapBatch } from "./rewrap_batch.ts";

/** A lane: a worker thread with a connection and a provider of its own. It does the batches it is given and never decides. */

const port = parentPort;
if (port === null) throw new Error("rewrap_worker is started by lanes.ts, not by hand");
const { database, provider: config, installId, from, to } = workerData as LaneData;

const opened = (async () => {
  const store = await openStore(database, { appName: "certautopilot rewrap lane", poolSize: 2 });
  const provider = makeProvider(config);
  for (const key of [from, to]) {
    await provider.load(key.version, proofOf(key, installId, provider.name, key.version));
  }
  return { store, provider };
})();

const COLLECT_EVERY = 30;

async function answer({ seq, job }: LaneRequest): Promise<LaneReply> {
  if (seq % COLLECT_EVERY === 0) collectGarbage();
  try {
    const { store, provider } = await opened;
    return { seq, result: await rewrapBatch(store, provider, installId, job) };
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
port.on("message", (request: LaneRequest | "close") => {
  if (request === "close") {
    close()
      .catch(() => undefined)
      .finally(() => port.postMessage("closed"));
  } else {
    answer(request).then((reply) => port.postMessage(reply));
  }
});
