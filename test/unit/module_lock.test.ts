import { expect, test } from "bun:test";
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { block, ModuleLock } from "../../src/providers/pkcs11/module_lock.ts";
import { type Orders, SEEN } from "../harness/module_lock_thread.ts";

/** What the threads of a process agree on about one module. The threads here are real. */

function scene() {
  const gate = new ModuleLock();
  const shared = new SharedArrayBuffer(64);
  const words = new Int32Array(shared);
  const threads: Promise<unknown>[] = [];
  return {
    gate,
    start(what: Orders["do"], count: number): void {
      for (let thread = 0; thread < count; thread += 1) {
        const workerData: Orders = { memory: gate.memory, seen: shared, do: what };
        threads.push(
          once(new Worker(new URL("../harness/module_lock_thread.ts", import.meta.url), { workerData }), "message"),
        );
      }
    },
    get: (word: keyof typeof SEEN) => Atomics.load(words, SEEN[word]),
    set: (word: keyof typeof SEEN, value: number) => Atomics.store(words, SEEN[word], value),
    all: async () => await Promise.all(threads),
    async until(word: keyof typeof SEEN, value: number): Promise<void> {
      while (Atomics.load(words, SEEN[word]) < value) await Bun.sleep(2);
    },
  };
}

test("one thread at a time is in exclusively", async () => {
  const { start, all, get } = scene();
  start("exclude", 4);
  await all();
  expect(get("turns")).toBe(400);
  expect(get("violations")).toBe(0);
});

test("exclusively lets go when the work throws, and inside does too", () => {
  const { gate } = scene();
  const fail = () => {
    throw new Error("on purpose");
  };
  expect(() => gate.exclusively(fail)).toThrow("on purpose");
  expect(gate.exclusively(() => 5)).toBe(5);
  gate.join(() => true);
  expect(() => gate.inside(fail)).toThrow("on purpose");
  let renewed = false;
  gate.renew(0, 100, () => {
    renewed = true;
  });
  expect(renewed).toBe(true);
  expect(gate.inside(() => 6)).toBe(6);
});

test("nobody is inside while the module is initialised again, and all go on afterwards", async () => {
  const { gate, start, all, get, set, until } = scene();
  gate.join(() => true);
  start("inside", 3);
  await until("turns", 30);
  let met = -1;
  gate.renew(0, 2000, () => {
    set("renewing", 1);
    met = get("inside");
    block(30);
    set("renewing", 0);
  });
  expect(met).toBe(0);
  expect(gate.epoch).toBe(1);
  await until("turns", get("turns") + 30);
  set("stop", 1);
  await all();
  expect(get("violations")).toBe(0);
});

test("a thread that stays inside is not waited for beyond the time limit: nothing is initialized under it", async () => {
  const { gate, start, all, set, until } = scene();
  gate.join(() => true);
  start("stay", 1);
  await until("inside", 1);
  let renewed = false;
  const began = performance.now();
  gate.renew(0, 100, () => {
    renewed = true;
  });
  expect(performance.now() - began).toBeGreaterThan(95);
  expect(performance.now() - began).toBeLessThan(1000);
  expect(renewed).toBe(false);
  expect(gate.epoch).toBe(0);
  // Others are not locked out by the attempt.
  expect(gate.inside(() => 7)).toBe(7);
  set("stop", 1);
  await all();
});

test("the module is initialised again once for all that ask, and not in a storm", () => {
  const { gate } = scene();
  let times = 0;
  const renew = (epoch: number) =>
    gate.renew(epoch, 100, () => {
      times += 1;
    });
  renew(0);
  expect(times).toBe(0);
  gate.join(() => true);
  renew(0);
  expect(times).toBe(1);
  // Who saw the old epoch has nothing to do, and who sees the new one waits.
  renew(0);
  renew(1);
  expect(times).toBe(1);
});

test("a module that another part of the process initialized is neither renewed nor finalized", () => {
  const { gate } = scene();
  let touched = false;
  const touch = () => {
    touched = true;
  };
  gate.join(() => false);
  gate.renew(0, 100, touch);
  gate.part(touch);
  expect(touched).toBe(false);
});

test("the last thread to part finalizes, and a later one begins again", () => {
  const { gate } = scene();
  let finalized = 0;
  const part = () =>
    gate.part(() => {
      finalized += 1;
    });
  gate.join(() => true);
  // The others find it initialized.
  gate.join(() => false);
  gate.join(() => false);
  part();
  part();
  expect(finalized).toBe(0);
  part();
  expect(finalized).toBe(1);
  gate.join(() => true);
  part();
  expect(finalized).toBe(2);
});

test("a module that cannot be initialized counts nobody", () => {
  const { gate } = scene();
  const fail = () => {
    throw new Error("no daemon");
  };
  expect(() => gate.join(fail)).toThrow("no daemon");
  let finalized = 0;
  gate.join(() => true);
  gate.part(() => {
    finalized += 1;
  });
  expect(finalized).toBe(1);
});
