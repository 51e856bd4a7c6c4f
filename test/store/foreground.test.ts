import { expect, test } from "bun:test";
import { ForegroundTraffic, othersRead } from "../../src/rotation/throttle.ts";
import { countReads } from "../../src/store/read_counts.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { guardedMongod } from "../harness/other_mongod.ts";

/** Who is at work on the collection of a rotation, by the counts of a real mongod. */

const rest = async (ms = 300) => await new Promise((resolve) => setTimeout(resolve, ms));

const UNKNOWN = { busy: true, seen: false };
const SOMEBODY = { busy: true, seen: true };
const NOBODY = { busy: false, seen: false };

test("services count as at work until it is known that they are not, and again once they read", async () => {
  const { uri, name, db } = await freshDatabase();
  for (const collection of ["one", "other"]) await db.collection(collection).insertOne({ a: 1 });
  const store = await openStore({ uri, name }, { appName: "test" });
  const foreground = new ForegroundTraffic(store);
  const reads = async (collection: string, count: number) =>
    await Promise.all(Array.from({ length: count }, () => db.collection(collection).findOne({})));
  const look = async (collection: string) => {
    await foreground.look(collection);
    return { busy: foreground.busy, seen: foreground.seen };
  };
  expect(await look("one")).toEqual(UNKNOWN);

  // What the rotation reads itself is no service.
  await rest();
  await reads("one", 30);
  for (let batch = 0; batch < 30; batch += 1) foreground.read();
  expect(await look("one")).toEqual(NOBODY);

  // Once nobody is there it looks once a second.
  await rest(1000);
  await reads("one", 60);
  expect(await look("one")).toEqual(SOMEBODY);
  await rest();
  expect(await look("one")).toEqual(NOBODY);

  // Of another collection nothing is known yet: what was found holds until then.
  expect(await look("other")).toEqual(NOBODY);
  await closeStore(store);
});

test("whoever may read may count; without the right, services are taken to be at work", async () => {
  const [name, password] = ["app_db", "a password"];
  const { uri } = await guardedMongod(name, password);
  const counted: unknown[] = [];
  for (const user of ["app", "stranger"]) {
    const store = await openStore({ uri: uri(user, password), name }, { appName: "test" });
    counted.push((await countReads(store, "one"))?.size);
    const foreground = new ForegroundTraffic(store);
    await foreground.look("one");
    await rest();
    await foreground.look("one");
    const { busy, seen, unseen } = foreground;
    const expected = user === "app" ? { ...NOBODY, unseen: false } : { ...UNKNOWN, unseen: true };
    expect({ user, busy, seen, unseen }).toEqual({ user, ...expected });
    await closeStore(store);
  }
  expect(counted).toEqual([1, undefined]);
});

test("a count or two of a moment before, or a read now and then, is nobody at work; each shard counts for itself", () => {
  const read = (count: number, own: number, ms: number) =>
    othersRead(new Map([["one", 100]]), new Map([["one", 100 + count]]), own, ms);
  expect(read(10, 10, 250)).toBe(false);
  expect(read(14, 10, 250)).toBe(false);
  expect(read(15, 10, 250)).toBe(true);
  expect(read(22, 10, 1000)).toBe(false);
  expect(read(23, 10, 1000)).toBe(true);

  // The rotation's own reads go to both; a shard that was not there before has nothing to be compared with.
  const before = new Map([
    ["a", 5],
    ["b", 7],
  ]);
  expect(
    othersRead(
      before,
      new Map([
        ["a", 25],
        ["b", 27],
        ["c", 999],
      ]),
      20,
      1000,
    ),
  ).toBe(false);
  expect(
    othersRead(
      before,
      new Map([
        ["a", 25],
        ["b", 67],
      ]),
      20,
      1000,
    ),
  ).toBe(true);
});
