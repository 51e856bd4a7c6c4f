import { expect, test } from "bun:test";
import { Throttle, type ThrottleOptions } from "../../src/rotation/throttle.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** What a rewrap leaves to services that a real mongod counts the reads of. */

const OPTIONS: ThrottleOptions = { batchSize: 1000, fullConcurrency: false, maxRate: undefined };

/** A rewrap's pace before and after so many reads by others: batches at once, records in one, and the rest after 100 ms and 10 s of work. */
async function paceAfter(
  reads: number,
  computes: boolean,
  over: Partial<ThrottleOptions>,
  /** What has no such name has no counts. */
  collection = "secrets",
) {
  const { uri, name, db } = await freshDatabase();
  await db.collection("secrets").insertOne({ a: 1 });
  const store = await openStore({ uri, name }, { appName: "test" });
  let atOnce = Number.POSITIVE_INFINITY;
  const notes: string[] = [];
  const workers = { count: 2, atMost: (batches: number) => (atOnce = batches) };
  const reporter = { note: (text: string) => notes.push(text), progress: () => undefined };
  const throttle = new Throttle({ store, provider: { computes } }, workers, { ...OPTIONS, ...over }, reporter as never);
  const pace = async () => {
    await throttle.take(1, collection);
    return { atOnce, records: throttle.portion, rests: [100, 10_000].map((ms) => throttle.restAfter(ms)) };
  };
  const first = await pace();
  await new Promise((resolve) => setTimeout(resolve, 300));
  await Promise.all(Array.from({ length: reads }, () => db.collection("secrets").findOne({})));
  const then = await pace();
  await closeStore(store);
  return { first, then, notes };
}

test("while services read, one small batch goes at a time and rests half as long as it took, at most a second; it is told once", async () => {
  const { first, then, notes } = await paceAfter(60, true, {});
  // Before anything is known it is gentle, but rests for nobody.
  expect(first).toEqual({ atOnce: 1, records: 250, rests: [0, 0] });
  expect(then).toEqual({ atOnce: 1, records: 250, rests: [50, 1000] });
  expect(notes).toEqual([
    "somebody reads secrets meanwhile: records move a batch at a time and with rests, to leave MongoDB room (run with --concurrency=2 to keep all workers at work)",
  ]);
});

test("where nobody reads, all goes", async () => {
  const { then, notes } = await paceAfter(0, true, {});
  expect(then).toEqual({ atOnce: Number.POSITIVE_INFINITY, records: 1000, rests: [0, 0] });
  expect(notes).toEqual([]);
});

test("a rate that was asked for is kept without rests", async () => {
  const { then, notes } = await paceAfter(60, true, { maxRate: 2000 });
  expect(then).toEqual({ atOnce: 1, records: 100, rests: [0, 0] });
  expect(notes).toEqual([
    "somebody reads secrets meanwhile: records move a batch at a time, to leave MongoDB room (run with --concurrency=2 to keep all workers at work)",
  ]);
});

test("under a rate it reads what it writes in whole portions", async () => {
  const { uri, name } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const workers = { count: 1, atMost: () => undefined };
  const sizes = [500, 5100, 6797, 9980, 100_000].map((maxRate) => {
    const context = { store, provider: { computes: true } };
    const { batchSize, portion } = new Throttle(context, workers, { ...OPTIONS, maxRate }, {} as never);
    return [batchSize, portion];
  });
  expect(sizes).toEqual([
    [25, 25],
    [250, 250],
    [250, 250],
    [250, 250],
    [1000, 250],
  ]);
  await closeStore(store);
});

test("whoever waits for a token, or asked for all workers, is held back by nothing but the size of a batch", async () => {
  for (const [computes, fullConcurrency] of [
    [false, false],
    [true, true],
  ] as const) {
    const { then, notes } = await paceAfter(60, computes, { fullConcurrency });
    expect(then).toEqual({ atOnce: Number.POSITIVE_INFINITY, records: 250, rests: [0, 0] });
    expect(notes).toEqual([]);
  }
});

test("where MongoDB does not say who reads, it is told what that costs", async () => {
  const { notes } = await paceAfter(0, true, {}, "");
  expect(notes).toEqual([
    "who reads  cannot be seen ($collStats): records move a batch at a time, to leave MongoDB room (run with --concurrency=2 to keep all workers at work)",
  ]);
});
