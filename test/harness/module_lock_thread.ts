import { parentPort, workerData } from "node:worker_threads";
import { block, ModuleLock } from "../../src/providers/pkcs11/module_lock.ts";

/** A thread that uses a module lock, for test/unit/module_lock.test.ts. What the threads see of each other is counted in memory that they share. */

export const SEEN = { inExclusive: 0, violations: 1, turns: 2, renewing: 3, stop: 4, inside: 5 } as const;

export interface Orders {
  memory: SharedArrayBuffer;
  seen: SharedArrayBuffer;
  do: "exclude" | "inside" | "stay";
}

if (parentPort !== null) {
  const { memory, seen: shared, do: what } = workerData as Orders;
  const gate = new ModuleLock(memory);
  const seen = new Int32Array(shared);
  const count = (word: keyof typeof SEEN, by = 1) => Atomics.add(seen, SEEN[word], by);
  const is = (word: keyof typeof SEEN) => Atomics.load(seen, SEEN[word]) !== 0;
  switch (what) {
    case "exclude":
      for (let turn = 0; turn < 100; turn += 1) {
        gate.exclusively(() => {
          if (count("inExclusive") !== 0) count("violations");
          if (turn % 10 === 0) block(1);
          count("inExclusive", -1);
          // Not atomic: a turn is lost when two are in at once.
          const before = seen[SEEN.turns] ?? 0;
          seen[SEEN.turns] = before + 1;
        });
      }
      break;
    case "inside":
      while (!is("stop")) {
        gate.inside(() => {
          count("inside");
          if (is("renewing")) count("violations");
          block(1);
          if (is("renewing")) count("violations");
          count("inside", -1);
        });
        count("turns");
      }
      break;
    case "stay":
      gate.inside(() => {
        count("inside");
        while (!is("stop")) block(5);
        count("inside", -1);
      });
  }
  parentPort.postMessage("done");
}
