import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mongodBinary } from "../harness/mongod_here.ts";
import { ReplicaSet } from "./replica_set.ts";
import { runSchedule } from "./run.ts";
import { makeSchedule } from "./schedule.ts";

/** A short campaign; the long one is ./scripts/torture --schedules=100. */

const SEEDS = process.env["CERTAUTOPILOT_TEST_LONG"] === undefined ? [1, 5] : [1, 5, 2, 6];

test("a seed decides a schedule", () => {
  expect(makeSchedule(7)).toEqual(makeSchedule(7));
  expect(makeSchedule(7)).not.toEqual(makeSchedule(8));
});

test("no schedule of the short campaign breaks a promise", async () => {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-campaign-"));
  const set = await ReplicaSet.start(mongodBinary(), directory);
  try {
    for (const [index, seed] of SEEDS.entries()) {
      const schedule = makeSchedule(seed, index === 1 ? "pkcs11" : "env");
      const { findings, timeline, rotations, writes } = await runSchedule(schedule, { set, directory });
      if (findings.length > 0) console.error(`seed ${seed}:\n${timeline.join("\n")}`);
      expect({ seed, findings }).toEqual({ seed, findings: [] });
      expect(rotations).toBeGreaterThan(0);
      expect(writes).toBeGreaterThan(schedule.records);
    }
  } finally {
    set.close();
    rmSync(directory, { recursive: true, force: true });
  }
}, 900_000);
