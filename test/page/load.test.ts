import { expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { type Db, MongoClient } from "mongodb";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { addressOf, PAGE_PATH } from "../harness/address.ts";
import { member } from "../harness/facts.ts";
import { type Running, stop, testInstall, until } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The page of a large fleet, and what its viewers cost MongoDB: on a mongod of this file's own, where nobody else asks. */

const TIMES = { beatMs: 5000, leaseMs: 60_000, evictionMs: 120_000, drainMs: 300 };
const scratch = scratchDirectory();

async function ownFleet(): Promise<{
  db: Db;
  client: MongoClient;
  serving: Running;
  stopMongod(): Promise<void>;
  pid: number;
}> {
  const mongod = await startPrivateMongod(scratch);
  const install = await testInstall(TIMES);
  const serving = await install.serve("api-0", [1, 2], 1, { CERTAUTOPILOT_DATABASE_URI: mongod.uri });
  const client = await new MongoClient(mongod.uri).connect();
  return { db: client.db(install.name), client, serving, stopMongod: mongod.stop, pid: mongod.pid };
}

test("200 processes and 50 rotations: under 300 KB in under 100 ms; 100 viewers cost MongoDB what one does", async () => {
  const { db, client, serving, stopMongod, pid } = await ownFleet();
  const address = addressOf(serving);
  await db.collection("process_heartbeats").insertMany(heartbeats(199) as never[]);
  await db.collection("kek_rotations").insertMany(rotations(50) as never[]);

  const steady = await timed(address);
  expect(steady.text).toContain("Rotation history");
  expect(steady.text.match(/<th scope="row">api-/g)?.length).toBe(200);
  expect(steady.bytes).toBeLessThan(300_000);
  expect(steady.fastest).toBeLessThan(100);

  const one = await cost(client, address, 1);
  const hundred = await cost(client, address, 100);
  console.log(
    `HTML: ${steady.bytes} bytes in ${steady.fastest.toFixed(1)} ms (median ${steady.median.toFixed(1)} ms); MongoDB operations a second: ${one.rate.toFixed(1)} for 1 viewer, ${hundred.rate.toFixed(1)} for 100`,
  );
  expect(hundred.events).toBeGreaterThan(100 * 2);
  // Beats and the driver's own monitoring vary by a few.
  expect(hundred.rate).toBeLessThan(one.rate * 1.2 + 2);

  // Nobody looks: nobody asks.
  const idle = await cost(client, address, 0);
  expect(idle.rate).toBeLessThan(one.rate);

  // The worst of it: an open rotation that waits for all of them.
  await db.collection("kek_rotations").insertOne(openRotation(51) as never);
  await until("the rotation shows", async () =>
    (await (await fetch(address + PAGE_PATH)).text()).includes("Waits for"),
  );
  expect((await (await fetch(address + PAGE_PATH)).arrayBuffer()).byteLength).toBeLessThan(300_000);

  // MongoDB stops answering: the page says so, keeps what it saw, and comes back.
  process.kill(pid, "SIGSTOP");
  let away = "";
  await until("the page tells", async () => {
    const response = await fetch(address + PAGE_PATH);
    away = await response.text();
    return response.status === 503;
  });
  expect(away).toContain("MongoDB cannot be read since");
  expect(away).toContain("MongoDB has not answered within 5 s");
  expect(away).toContain("Everything below is as of");
  expect(away).toContain("api-150");
  expect(away).not.toContain("    at ");
  process.kill(pid, "SIGCONT");
  await until("the page is well again", async () => (await fetch(address + PAGE_PATH)).status === 200);

  await stop(serving);
  await client.close();
  await stopMongod();
});

// ---------------------------------------------------------------------------------------------------------------------

/** The fastest and the median of several requests, each of a view that is read again. Whatever else runs here only adds to them. */
async function timed(address: string): Promise<{ fastest: number; median: number; bytes: number; text: string }> {
  const took: number[] = [];
  let text = "";
  for (let turn = 0; turn < 6; turn += 1) {
    await Bun.sleep(950);
    const began = performance.now();
    const response = await fetch(address + PAGE_PATH);
    text = await response.text();
    took.push(performance.now() - began);
    expect(response.status).toBe(200);
  }
  took.sort((one, other) => one - other);
  return { fastest: took[0] as number, median: took[3] as number, bytes: Buffer.byteLength(text), text };
}

/** Operations that mongod counts in a second while so many watch. */
async function cost(client: MongoClient, address: string, viewers: number): Promise<{ rate: number; events: number }> {
  const MS = 3000;
  const ended = new AbortController();
  let events = 0;
  const watching = Array.from({ length: viewers }, async () => {
    const response = await fetch(`${address}${PAGE_PATH}/events`, { signal: ended.signal });
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) {
      events += decoder.decode(chunk, { stream: true }).split("event: sections").length - 1;
    }
  });
  const over = Promise.allSettled(watching);
  await Bun.sleep(1500);
  const [before, began] = [await operations(client), performance.now()];
  await Bun.sleep(MS);
  const rate = ((await operations(client)) - before) / ((performance.now() - began) / 1000);
  ended.abort();
  await over;
  return { rate, events };
}

async function operations(client: MongoClient): Promise<number> {
  const { opcounters } = await client.db("admin").command({ serverStatus: 1 });
  return Object.values(opcounters as Record<string, number>)
    .filter((count) => typeof count === "number")
    .reduce((total, count) => total + count, 0);
}

function heartbeats(count: number): object[] {
  const fleet = { beat_ms: 5000, lease_ms: 60_000, eviction_ms: 120_000, drain_ms: 300 };
  return Array.from({ length: count }, (_, index) => {
    const { age_ms: _age, ...doc } = member({
      _id: randomUUID(),
      instance_name: `api-${index + 1}`,
      host: `node-${Math.floor(index / 8)}.fleet.example`,
      pid: 1000 + index,
      // One in ten lags behind.
      current_version: index % 10 === 9 ? 2 : 1,
      // The last of the rotations that are made below.
      acked: { rotation: 50, epoch: 200, phase: 0 },
      fleet,
      started_at: new Date(),
      updated_at: new Date(Date.now() + 60_000),
    });
    return doc;
  });
}

const DAY_MS = 86_400_000;

function rotation(id: number) {
  const [from, to] = id % 2 === 1 ? [1, 2] : [2, 1];
  const began = Date.now() - (60 - id) * DAY_MS;
  return {
    _id: id,
    from,
    to,
    epoch: id * 4,
    started_at: new Date(began),
    started_by: `cli ops-${id % 3}.fleet.example pid ${4000 + id}`,
    phase_times: { 1: new Date(began), 2: new Date(began + 4000), 3: new Date(began + 90_000) },
    fields: [{ field: "secrets:value", done: 250_000, remaining: 0, failed: 0 }],
    failed: [],
    pace: Array.from({ length: 60 }, (_, index) => ({ at: new Date(began + 4000 + index * 1000), done: index * 4000 })),
    fence: { versions: [], collections: [] },
  };
}

function rotations(count: number): object[] {
  return Array.from({ length: count }, (_, index) => ({
    ...rotation(index + 1),
    phase: 3,
    state: "completed",
    lease: null,
    ended_at: new Date(Date.now() - (59 - index) * DAY_MS + 95_000),
  }));
}

function openRotation(id: number): object {
  const lease = { owner: null, token: id, expires_at: new Date() };
  return { ...rotation(id), open: true, phase: 1, state: "running", lease };
}
