import { expect, test } from "bun:test";
import { isSnapshotGone } from "../../src/store/mongodb_errors.ts";
import {
  atOneMoment,
  closeStore,
  inSession,
  openStore,
  type Session,
  type Store,
  transact,
} from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** What is read together is of one moment, and not older than what the same session wrote; against a real mongod. */

const BOTH = ["one", "other"].map((from) => ({ $lookup: { from, pipeline: [], as: from } }));

async function counted(): Promise<Store> {
  const { uri, name, db } = await freshDatabase();
  for (const collection of ["one", "other"])
    await db.collection(collection).insertOne({ _id: "count" as never, count: 0 });
  return await openStore({ uri, name }, { appName: "test" });
}

async function add(store: Store): Promise<void> {
  await transact(store, async (session) => {
    for (const collection of ["one", "other"])
      await store.db.collection(collection).updateOne({}, { $inc: { count: 1 } }, { session });
  });
}

async function counts(store: Store, session?: Session): Promise<(number | undefined)[]> {
  const { one, other } = await atOneMoment<Record<"one" | "other", { count: number }[]>>(store, BOTH, session);
  return [one[0]?.count, other[0]?.count];
}

test("two collections that change together are never seen half changed, in a session or without one", async () => {
  const store = await counted();
  const seen: number[] = [];
  let going = true;
  const adding = (async () => {
    while (going) await add(store);
  })();
  try {
    await inSession(store, async (session) => {
      for (let look = 0; look < 150; look += 1) {
        for (const [one, other] of [await counts(store, session), await counts(store)]) {
          expect(other).toBe(one as number);
          seen.push(one as number);
        }
      }
    });
  } finally {
    going = false;
    await adding;
  }
  expect(new Set(seen).size).toBeGreaterThan(20);
  expect(seen).toEqual([...seen].sort((a, b) => a - b));
  await closeStore(store);
});

test("a session reads no less than what it wrote, also what no majority had confirmed when it asked", async () => {
  const store = await counted();
  await inSession(store, async (session) => {
    for (let count = 1; count <= 20; count += 1) {
      for (const collection of ["one", "other"])
        await store.db
          .collection(collection)
          .updateOne({}, { $set: { count } }, { session, writeConcern: { w: 1, j: false } });
      expect(await counts(store, session)).toEqual([count, count]);
    }
  });
  await closeStore(store);
});

test("where the last moment that a majority has confirmed is older than a collection, a later one is looked at", async () => {
  const store = await counted();
  const rename = async (from: string, to: string) => {
    const [renameCollection, renamed] = [from, to].map((name) => `${store.db.databaseName}.${name}`);
    await store.client.db("admin").command({ renameCollection, to: renamed, writeConcern: { w: 1 } });
  };
  const asked = [{ $lookup: { from: "other", pipeline: [], as: "other" } }];
  let unconfirmed = 0;
  for (let round = 0; round < 10; round += 1) {
    await rename("other", "another");
    await rename("another", "other");
    await inSession(store, async (session) => {
      await store.db
        .aggregate([{ $documents: [{}] }, ...asked], { session, readConcern: { level: "snapshot" } })
        .toArray()
        .catch((thrown) => {
          unconfirmed += Number(isSnapshotGone(thrown));
        });
    });
    await rename("other", "another");
    await rename("another", "other");
    expect(await inSession(store, (session) => counts(store, session))).toEqual([0, 0]);
  }
  // Later releases of MongoDB read the catalog of that moment too.
  const { version } = await store.db.admin().command({ buildInfo: 1 });
  if (Number.parseInt(version, 10) < 7) expect(unconfirmed).toBeGreaterThan(0);
  await closeStore(store);
});
