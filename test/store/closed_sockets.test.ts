import { expect, test } from "bun:test";
import { MongoClient } from "mongodb";
import { refuseClosedSockets } from "../../src/store/closed_socket_patch.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { TcpProxy } from "../torture/tcp_proxy.ts";

/** Connections that the other side closes while commands are about to be sent: each command ends, one way or the other. */

const LONGEST_MS = 8000;

test("no command hangs when its connection was closed just before", async () => {
  const { uri, name } = await freshDatabase();
  const port = Number(/:(\d+)\//.exec(uri)?.[1]);
  const proxy = await TcpProxy.open(() => port);
  refuseClosedSockets();
  const timeouts = { serverSelectionTimeoutMS: 2000, connectTimeoutMS: 2000, waitQueueTimeoutMS: 2000 };
  const client = new MongoClient(`mongodb://127.0.0.1:${proxy.port}/?directConnection=true`, timeouts);
  const records = client.db(name).collection("records");
  const until = performance.now() + 12_000;
  const begun = new Map<symbol, number>();
  let ended = 0;
  const ask = async () => {
    while (performance.now() < until) {
      const key = Symbol();
      begun.set(key, performance.now());
      await records.findOne({}).catch(() => undefined);
      begun.delete(key);
      ended += 1;
      await Bun.sleep(Math.random() * 10);
    }
  };
  const asking = Promise.all(Array.from({ length: 8 }, ask));
  while (performance.now() < until) {
    await Bun.sleep(50 + Math.random() * 200);
    proxy.drop();
  }
  await Promise.race([asking, Bun.sleep(LONGEST_MS)]);
  expect({ hanging: begun.size }).toEqual({ hanging: 0 });
  expect(ended).toBeGreaterThan(20);
  await client.close();
  proxy.close();
}, 40_000);
