import { expect, test } from "bun:test";
import { Foreground, othersRead } from "../../src/rotation/foreground.ts";
import { countReads } from "../../src/store/operations.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { guardedMongod } from "../harness/other_mongod.ts";

/** Who is at work on the collections of a rotation, by the counts of a real mongod. */

const COLLECTIONS = ["one", "other"];
const rest = async () => await new Promise((resolve) => setTimeout(resolve, 300));

test("services count as at work until it is known that they are not, and again once they read", async () => {
  const { uri, name, db } = await freshDatabase();
  for (const collection of COLLECTIONS) await db.collection(collection).insertOne({ a: 1 });
  const store = await openStore({ uri, name }, { appName: "test" });
  const foreground = new Foreground(store);
  foreground.watch(COLLECTIONS);
  expect(await foreground.look()).toBeUndefined();
  expect(foreground.busy).toBe(true);

  // What the rotation reads itself is no service.
  await rest();
  for (let batch = 0; batch < 20; batch += 1) {
    await db.collection("one").findOne({});
    foreground.read();
  }
  expect(await foreground.look()).toBe(false);
  expect(foreground.busy).toBe(false);

  for (let read = 0; read < 40; read += 1) await db.collection("other").findOne({});
  // Once nobody is there it looks once a second.
  expect(await foreground.look()).toBe(false);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  expect(await foreground.look()).toBe(true);
  expect(foreground.busy).toBe(true);
  await rest();
  expect(await foreground.look()).toBe(false);

  // Another collection: nothing is known of it yet, and what was found holds until then.
  foreground.watch(["one"]);
  expect(await foreground.look()).toBe(false);
  await closeStore(store);
});

test("whoever may read may count; without the right, services are taken to be at work", async () => {
  const [name, password] = ["app_db", "a password"];
  const { uri } = await guardedMongod(name, password);
  const counted: (number | undefined)[] = [];
  for (const user of ["app", "stranger"]) {
    const store = await openStore({ uri: uri(user, password), name }, { appName: "test" });
    counted.push(await countReads(store, COLLECTIONS));
    const foreground = new Foreground(store);
    foreground.watch(COLLECTIONS);
    await foreground.look();
    await rest();
    const found = await foreground.look();
    expect([user, found, foreground.busy]).toEqual(
      user === "app" ? ["app", false, false] : ["stranger", undefined, true],
    );
    await closeStore(store);
  }
  expect(counted).toEqual([expect.any(Number), undefined]);
});

test("a count or two of a moment before, or a read now and then, is nobody at work", () => {
  expect(othersRead(10, 10, 250)).toBe(false);
  expect(othersRead(13, 10, 250)).toBe(false);
  expect(othersRead(14, 10, 250)).toBe(true);
  expect(othersRead(16, 10, 1000)).toBe(false);
  expect(othersRead(17, 10, 1000)).toBe(true);
});
