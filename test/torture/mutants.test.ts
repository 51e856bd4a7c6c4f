import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mongodBinary } from "../harness/mongod_here.ts";
import { MUTANTS, mutatedTree, provocation } from "./mutants.ts";
import { ReplicaSet } from "./replica_set.ts";
import { runSchedule } from "./run.ts";

/** Each guard, taken out of the product alone, is missed: the campaign finds what it had kept from happening. */

const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
const TRIES = 4;
/** Long enough for a command to be done on a primary that nobody follows any more. */
const ELECTION_MS = 4000;
const directory = mkdtempSync(join(tmpdir(), "certautopilot-mutants-"));
let set: ReplicaSet;

beforeAll(async () => {
  set = await ReplicaSet.start(mongodBinary(), directory, ELECTION_MS);
}, 60_000);

afterAll(() => {
  set.close();
  rmSync(directory, { recursive: true, force: true });
});

test("every mutant's patches fit the product as it is", () => {
  const trees = mkdtempSync(join(directory, "fit-"));
  for (const mutant of MUTANTS) mutatedTree(mutant, trees);
});

// Each takes about a minute on busy cores: the whole suite runs the first, `./scripts/test --long` all of them.
for (const mutant of LONG ? MUTANTS : MUTANTS.slice(0, 1)) {
  test(`found: ${mutant.name}`, async () => {
    const tree = mutatedTree(mutant, directory);
    const seen: string[] = [];
    for (let seed = 1; seed <= TRIES; seed += 1) {
      const { times = {} } = mutant;
      const { findings } = await runSchedule(provocation(mutant, seed), { set, directory, tree, times });
      seen.push(...findings);
      if (findings.some((finding) => mutant.finding.test(finding))) return;
    }
    // With the guard gone something else may break first: what is asked for is this very finding.
    expect(seen.join("\n")).toMatch(mutant.finding);
  }, 600_000);
}
