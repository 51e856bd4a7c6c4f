import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { Binary, Int32 } from "mongodb";
import { FIELD, owned, type Stage } from "../stage.ts";

/**
 * The script that one would write around a transit engine (OpenBao or Vault, in dev mode): wraps are sent in batches, rewrapped
 * there, and written back with bulkWrite.
 */

const BATCH = 400;
const TOKEN = "bench";
const LANES = 4;

export interface Transit {
  /** @returns records a second. */
  rewrapAll(): Promise<number>;
  stop(): Promise<void>;
}

/** @param binary of OpenBao or Vault. @param records how many are made, each wrapped by the engine. */
export async function startTransit(stage: Stage, binary: string, records: number, bytes: number): Promise<Transit> {
  const port = 20_000 + (process.pid % 20_000);
  const address = `http://127.0.0.1:${port}`;
  const child = owned(
    spawn(binary, ["server", "-dev", `-dev-root-token-id=${TOKEN}`, `-dev-listen-address=127.0.0.1:${port}`], {
      stdio: "ignore",
      env: { PATH: process.env["PATH"] ?? "", HOME: stage.directory },
    }),
  );
  const ended = new Promise((resolve) => child.once("close", resolve));
  // It may fail to start at all: then it ends, and is never heard of again.
  child.once("error", () => undefined);
  try {
    await answering(child, address);
    await call(address, "sys/mounts/transit", { type: "transit" });
    await call(address, "transit/keys/kek", {});
    await seed(stage, address, records, bytes);
  } catch (thrown) {
    child.kill("SIGKILL");
    throw thrown;
  }
  let version = 1;
  return {
    async rewrapAll() {
      await call(address, "transit/keys/kek/rotate", {});
      version += 1;
      const began = performance.now();
      const moved = await rewrap(stage, address, version);
      const seconds = (performance.now() - began) / 1000;
      if (moved !== records) throw new Error(`the transit engine's script moved ${moved} of ${records} records`);
      return records / seconds;
    },
    async stop() {
      child.kill("SIGTERM");
      await ended;
      await stage.client.db(DATABASE).dropDatabase();
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

const DATABASE = "transit";

interface Sealed {
  _id: number;
  value: { kek_version: Int32; wrapped_dek: string; nonce: Binary; ciphertext: Binary };
}

const collectionOf = (stage: Stage) => stage.client.db(DATABASE).collection<Sealed>(FIELD.collection);

async function call(
  address: string,
  path: string,
  body: object,
  // biome-ignore lint/suspicious/noExplicitAny: another program's answer
): Promise<any> {
  const response = await fetch(`${address}/v1/${path}`, {
    method: "POST",
    headers: { "x-vault-token": TOKEN, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response.status === 204 ? undefined : await response.json();
}

async function answering(child: ChildProcess, address: string): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (child.exitCode !== null || child.pid === undefined)
      throw new Error(`the transit engine ${child.spawnfile} ended with ${child.exitCode}, or did not start`);
    const health = await fetch(`${address}/v1/sys/health`).catch(() => undefined);
    if (health?.ok === true) return;
    await Bun.sleep(50);
  }
  throw new Error("the transit engine does not answer");
}

async function seed(stage: Stage, address: string, records: number, bytes: number): Promise<void> {
  const payload = randomBytes(bytes);
  for (let start = 0; start < records; start += BATCH) {
    const count = Math.min(BATCH, records - start);
    const items = Array.from({ length: count }, () => ({ plaintext: randomBytes(32).toString("base64") }));
    const { data } = await call(address, "transit/encrypt/kek", { batch_input: items });
    const documents = data.batch_results.map(({ ciphertext }: { ciphertext: string }, index: number) => ({
      _id: start + index,
      value: {
        kek_version: new Int32(1),
        wrapped_dek: ciphertext,
        nonce: new Binary(randomBytes(12), 0),
        ciphertext: new Binary(payload.subarray(0, bytes - 250), 0),
      },
    }));
    await collectionOf(stage).insertMany(documents, { ordered: false });
  }
  await collectionOf(stage).createIndex({ "value.kek_version": 1, _id: 1 });
}

/** @returns how many records it moved. The next batches are under way while one is written: as good as such a script would be written. */
async function rewrap(stage: Stage, address: string, to: number): Promise<number> {
  const collection = collectionOf(stage);
  const cursor = collection
    .find({ "value.kek_version": to - 1 }, { projection: { "value.wrapped_dek": 1 }, batchSize: BATCH })
    .sort({ _id: 1 });
  const flying = new Set<Promise<void>>();
  let moved = 0;
  const send = async (batch: Sealed[]) => {
    const items = batch.map(({ value }) => ({ ciphertext: value.wrapped_dek }));
    const { data } = await call(address, "transit/rewrap/kek", { batch_input: items });
    const writes = batch.map(({ _id, value }, index) => ({
      updateOne: {
        filter: { _id, "value.kek_version": to - 1, "value.wrapped_dek": value.wrapped_dek },
        update: {
          $set: {
            "value.kek_version": new Int32(to),
            "value.wrapped_dek": data.batch_results[index].ciphertext as string,
          },
        },
      },
    }));
    const { modifiedCount } = await collection.bulkWrite(writes, {
      ordered: false,
      writeConcern: { w: "majority", j: true },
    });
    moved += modifiedCount;
  };
  let batch: Sealed[] = [];
  const flush = async () => {
    const work: Promise<void> = send(batch).finally(() => flying.delete(work));
    flying.add(work);
    batch = [];
    if (flying.size >= LANES) await Promise.race(flying);
  };
  for await (const document of cursor) {
    batch.push(document);
    if (batch.length === BATCH) await flush();
  }
  if (batch.length > 0) await flush();
  await Promise.all(flying);
  return moved;
}
