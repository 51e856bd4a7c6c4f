import { expect, test } from "bun:test";
import { serialize } from "bson";
import { MongoClient } from "mongodb";
import { isTransient } from "../../src/store/mongodb_errors.ts";
import { applyRewraps } from "../../src/store/rewrap_writes.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { setValidator } from "../../src/store/validators.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { ownReplicaSet } from "../harness/other_mongod.ts";

/** What a rotation waits out, as a real mongod and the driver tell it. */

const FIELD = { collection: "secrets", path: "value" };
const REWRAP = { idBson: serialize({ _id: 1 }), oldWrap: Buffer.alloc(60, 1), newWrap: Buffer.alloc(60, 2) };

const thrownBy = async (work: Promise<unknown>): Promise<unknown> =>
  await work.then(
    () => undefined,
    (thrown) => thrown,
  );

test("a primary that steps down or shuts down is waited out, and so is a majority that is late; a refusal is not", async () => {
  const uri = await ownReplicaSet();
  const store = await openStore({ uri, name: "t" }, { appName: "test" });
  await store.db.createCollection("secrets");
  const failing = async (failCommands: string[], data: object) =>
    await store.client
      .db("admin")
      .command({ configureFailPoint: "failCommand", mode: { times: 1 }, data: { failCommands, ...data } });
  const rewrap = () =>
    thrownBy(
      applyRewraps(store, {
        field: FIELD,
        from: 1,
        to: 2,
        rewraps: [REWRAP],
        limitMs: 5000,
        lease: { date: new Date(Date.now() + 60_000) },
      }),
    );
  const [INTERRUPTED, SHUTTING_DOWN, NO_PRIMARY, STEPPED_DOWN, BAD_VALUE] = [11_602, 91, 10_107, 189, 2];
  for (const code of [INTERRUPTED, SHUTTING_DOWN, NO_PRIMARY, STEPPED_DOWN, BAD_VALUE]) {
    await failing(["update"], { errorCode: code });
    const thrown = await rewrap();
    expect([code, (thrown as { code: unknown }).code]).toEqual([code, code]);
    expect([code, isTransient(thrown)]).toEqual([code, code !== BAD_VALUE]);
  }
  const late = { writeConcernError: { code: 64, errmsg: "waiting for replication timed out" } };
  await failing(["update"], late);
  const unconfirmed = await rewrap();
  expect(unconfirmed).toMatchObject({
    code: "mongodb_unavailable",
    message: "MongoDB did not confirm a batch by a majority: waiting for replication timed out",
  });
  expect(isTransient(unconfirmed)).toBe(true);
  await failing(["collMod"], late);
  const told: string[] = [];
  const set = () =>
    setValidator(store, "secrets", {}, { may: async () => true, tell: (message) => void told.push(message) });
  expect(await thrownBy(set())).toMatchObject({ code: "mongodb_unavailable" });
  // By its own limit, waiting for the majority or for the lock: it is asked for again.
  const ranOut = { code: 50, errmsg: "operation exceeded time limit" };
  for (const data of [{ writeConcernError: ranOut }, { errorCode: ranOut.code }]) {
    await failing(["collMod"], data);
    expect(await set()).toBe("set");
  }
  const WAITS = "the validator of secrets is not set yet: a transaction holds the collection; waiting for it";
  expect(told).toEqual([WAITS]);
  expect(await rewrap()).toBeUndefined();
  await closeStore(store);
});

test("whoever waits too long for the one connection has not been refused by anybody", async () => {
  const { uri, name, db } = await freshDatabase();
  await db.collection("one").insertOne({});
  const client = await new MongoClient(uri, { maxPoolSize: 1, waitQueueTimeoutMS: 100 }).connect();
  const find = (filter: object) => client.db(name).collection("one").findOne(filter);
  const [slow, waiting] = await Promise.all([find({ $where: "sleep(1500) || true" }), thrownBy(find({}))]);
  expect(slow).not.toBeNull();
  expect((waiting as Error).name).toBe("MongoWaitQueueTimeoutError");
  expect(isTransient(waiting)).toBe(true);
  await client.close();
});
