import { expect, test } from "bun:test";
import { Long } from "mongodb";
import { WrapBudget } from "../../src/fleet/wrap_budget.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** What a process takes of a version's wraps is counted in MongoDB before it is taken, however it is taken. */

test("wraps taken while the next block is asked for are taken from what was granted", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const versions = db.collection<{ _id: number; wraps: Long | number }>("kek_versions");
  await versions.insertOne({ _id: 1, wraps: Long.fromNumber(0) });
  const counted = async () => Number((await versions.findOne({ _id: 1 }))?.wraps);
  const budget = new WrapBudget(store);
  let taken = 0;
  const blocks: number[] = [];
  for (let round = 0; round < 5; round += 1) {
    await budget.take(1);
    taken += 1;
    // All at once: half-way the next block is asked for, and its answer finds other numbers than its question left.
    while (budget.takeNow(1)) taken += 1;
    const before = await counted();
    expect(taken).toBeLessThanOrEqual(before);
    blocks.push(before);
  }
  // It grew while it was used up at once: five blocks of the first size, and one asked for ahead, would be 6000.
  expect(blocks.at(-1)).toBeGreaterThan(6000);
  await closeStore(store);
});
