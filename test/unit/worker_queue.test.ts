import { expect, test } from "bun:test";
import { WorkerQueue } from "../../src/rotation/rewrap_workers.ts";

/** Who gets the next batch. */

/** Takes one, and tells whether it was free at once. */
async function takes(handOut: WorkerQueue<string>): Promise<{ worker: string | undefined; taking: Promise<string> }> {
  let worker: string | undefined;
  const taking = handOut.take().then((taken) => {
    worker = taken;
    return taken;
  });
  await new Promise((resolve) => setTimeout(resolve, 0));
  return { worker, taking };
}

test("each takes a few batches at a time; who waits gets the first that is given back", async () => {
  const handOut = new WorkerQueue(["a", "b"], 2);
  const taken = [];
  for (let batch = 0; batch < 4; batch += 1) taken.push((await takes(handOut)).worker);
  expect(taken.sort()).toEqual(["a", "a", "b", "b"]);
  const [next, after] = [await takes(handOut), await takes(handOut)];
  expect([next.worker, after.worker]).toEqual([undefined, undefined]);
  handOut.give("b");
  expect(await next.taking).toBe("b");
  handOut.give("a");
  expect(await after.taking).toBe("a");
});

test("no more at work than is allowed: what is beyond it ends first, and more go on once they may", async () => {
  const handOut = new WorkerQueue(["a", "b"], 2);
  for (let batch = 0; batch < 3; batch += 1) await handOut.take();
  handOut.atMost(1);
  const next = await takes(handOut);
  for (const worker of ["a", "b"]) handOut.give(worker);
  await new Promise((resolve) => setTimeout(resolve, 0));
  const still = await takes(handOut);
  expect([next.worker, still.worker]).toEqual([undefined, undefined]);
  handOut.give("b");
  // The one that was at work last.
  expect(await next.taking).toBe("b");
  handOut.atMost(Number.POSITIVE_INFINITY);
  expect(["a", "b"]).toContain(await still.taking);
});
