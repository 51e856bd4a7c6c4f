import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { mongodBinary } from "../harness/mongod_here.ts";
import type { Outcome } from "./aftermath.ts";
import { ReplicaSet } from "./replica_set.ts";
import { runSchedule } from "./run.ts";
import { makeSchedule, type ProviderName } from "./schedule.ts";

/**
 * The fault campaign: ./scripts/torture --schedules=N --seed=S [--provider=env|pkcs11]
 * Ends with 0 when no schedule broke a promise, with 1 and the timeline of each that did.
 */

const { values } = parseArgs({
  options: {
    schedules: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
    provider: { type: "string" },
    verbose: { type: "boolean", default: false },
  },
});
const schedules = Number(values.schedules);
const first = Number(values.seed);
const provider = values.provider as ProviderName | undefined;

const directory = mkdtempSync(join(tmpdir(), "certautopilot-torture-"));
const began = performance.now();
const set = await ReplicaSet.start(mongodBinary(), directory);
const total = { writes: 0, reads: 0, rotations: 0, broken: [] as number[], acts: new Map<string, number>() };
try {
  for (let seed = first; seed < first + schedules; seed += 1) {
    const schedule = makeSchedule(seed, provider);
    const outcome = await runSchedule(schedule, { set, directory });
    count(outcome, seed);
    const spent = ((performance.now() - began) / 1000).toFixed(0);
    const word = outcome.findings.length === 0 ? "ok" : "BROKEN";
    console.log(
      `${word}: seed ${seed} (${schedule.provider}, ${schedule.acts.length} acts): ${outcome.rotations} rotations, ` +
        `${outcome.writes} writes, ${outcome.reads} reads; ${seed - first + 1} of ${schedules}, ${spent} s`,
    );
    if (outcome.findings.length > 0 || values.verbose) {
      for (const finding of outcome.findings) console.log(`  FOUND ${finding}`);
      for (const line of outcome.timeline) console.log(`  ${line}`);
      console.log(`  again: ./scripts/torture --schedules=1 --seed=${seed}`);
    }
  }
} finally {
  set.close();
  rmSync(directory, { recursive: true, force: true });
}
summary();
process.exit(total.broken.length === 0 ? 0 : 1);

// ---------------------------------------------------------------------------------------------------------------------

function count(outcome: Outcome, seed: number): void {
  total.writes += outcome.writes;
  total.reads += outcome.reads;
  total.rotations += outcome.rotations;
  for (const act of outcome.acts) total.acts.set(act, (total.acts.get(act) ?? 0) + 1);
  if (outcome.findings.length > 0) total.broken.push(seed);
}

function summary(): void {
  console.log(`\n${schedules} schedules from seed ${first}, ${((performance.now() - began) / 1000).toFixed(0)} s`);
  for (const [act, times] of [...total.acts].sort((a, b) => b[1] - a[1]))
    console.log(`  ${String(times).padStart(6)}  ${act}`);
  console.log(
    `  ${total.rotations} rotations completed, ${total.writes} writes acknowledged, ${total.reads} reads compared`,
  );
  console.log(
    total.broken.length === 0 ? "  no secret lost, no promise broken" : `  BROKEN by seeds ${total.broken.join(", ")}`,
  );
}
