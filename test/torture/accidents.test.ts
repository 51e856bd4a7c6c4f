import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mongodBinary } from "../harness/mongod_here.ts";
import { ReplicaSet } from "./replica_set.ts";
import { runSchedule } from "./run.ts";
import type { Act, Schedule, Timed } from "./schedule.ts";

/** Accidents around a rotation and a removal, at chosen moments: an index, a name or the registry is not what the product left. */

const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
const directory = mkdtempSync(join(tmpdir(), "certautopilot-accidents-"));
let set: ReplicaSet;

beforeAll(async () => {
  set = await ReplicaSet.start(mongodBinary(), directory);
}, 60_000);

afterAll(() => {
  set.close();
  rmSync(directory, { recursive: true, force: true });
});

const at = (atMs: number, act: Act): Timed => ({ atMs, act });
const during = (inPhase: 1 | 2 | 3, atMs: number, act: Act): Timed => ({ atMs, act, inPhase });

const SCHEDULES: [name: string, acts: Timed[]][] = [
  [
    "a second index of the same key while ours is hidden, then a removal",
    [
      at(100, { act: "odd index", kind: "partial" }),
      at(200, { act: "hide index" }),
      at(400, { act: "rotate", to: 2 }),
      at(6000, { act: "remove", version: 1 }),
      at(7500, { act: "repair" }),
    ],
  ],
  [
    "a collection that is renamed while its records move, then a removal",
    [
      at(300, { act: "rotate", to: 2 }),
      during(2, 100, { act: "kill coordinators" }),
      during(2, 0, { act: "rename away", ms: 5000 }),
      during(2, 300, { act: "rotate", to: 2 }),
      at(5500, { act: "remove", version: 1 }),
      at(8000, { act: "repair" }),
      at(8500, { act: "remove", version: 1 }),
    ],
  ],
  [
    "kek_fields is emptied while records move, then a removal",
    [
      at(300, { act: "rotate", to: 2 }),
      during(2, 0, { act: "empty kek_fields" }),
      during(2, 400, { act: "unregister" }),
      at(5000, { act: "empty kek_fields" }),
      at(5100, { act: "remove", version: 1 }),
      at(7000, { act: "remove", version: 1 }),
    ],
  ],
  [
    "old envelopes are put back, repaired, and put back again before a removal",
    [
      at(300, { act: "rotate", to: 2 }),
      at(5000, { act: "put back", share: 0.5 }),
      at(5200, { act: "remove", version: 1 }),
      at(5400, { act: "repair" }),
      at(8000, { act: "remove", version: 1 }),
    ],
  ],
];

// Each takes about a minute on busy cores: the whole suite runs the first, `./scripts/test --long` all of them.
for (const [number, [name, acts]] of SCHEDULES.entries()) {
  test.skipIf(!LONG && number > 0)(
    name,
    async () => {
      const schedule: Schedule = {
        seed: 900 + number,
        provider: "env",
        records: 160,
        services: 2,
        clockOffS: 0,
        durationMs: 9500,
        acts,
      };
      const { findings, timeline } = await runSchedule(schedule, { set, directory });
      if (findings.length > 0 || process.env["CERTAUTOPILOT_TEST_VERBOSE"] !== undefined)
        console.error(timeline.join("\n"));
      expect(findings).toEqual([]);
    },
    300_000,
  );
}
