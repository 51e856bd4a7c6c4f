import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MongoClient } from "mongodb";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { byClass, runAll, storiesFrom, type Total } from "./campaign.ts";
import { DIRECTED } from "./directed.ts";
import { Program } from "./program.ts";

/**
 * The property test: ./scripts/property [--cases=200] [--seed=1] [--binary=PATH] [--jobs=N] [--no-directed] [--refusals]
 * Ends with 0 when every envelope can be opened after every command, with 1 and the story of each case where not.
 */

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "200" },
    seed: { type: "string", default: "1" },
    binary: { type: "string" },
    jobs: { type: "string", default: String(2 * availableParallelism()) },
    verbose: { type: "boolean", default: false },
    refusals: { type: "boolean", default: false },
    directed: { type: "boolean", default: true },
  },
  allowNegative: true,
});
const cases = Number(values.cases);
const first = Number(values.seed);
const program = new Program(values.binary);
// Nothing in it outlives the run: in memory, where there is such a place, MongoDB need not wait for a disk.
const directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "certautopilot-property-"));
const mongod = await startPrivateMongod(directory);
const client = await new MongoClient(mongod.uri).connect();
let total: Total;
try {
  const began = performance.now();
  let toldAt = began;
  total = await runAll({
    stories: [...(values.directed ? DIRECTED : []), ...storiesFrom(first, cases)],
    uri: mongod.uri,
    client,
    program,
    jobs: Number(values.jobs),
    onCase({ name }, { findings, story }, { cases: done, ms, broken }) {
      if (findings.length > 0 || values.verbose) {
        console.log(`${findings.length === 0 ? "ok" : "BROKEN"}: ${name}`);
        for (const line of story) console.log(`  ${line}`);
        for (const { kind, text } of findings) if (story.length === 0) console.log(`  FOUND ${kind}: ${text}`);
        console.log(`  again: ${again(name)}`);
      }
      if (performance.now() - toldAt < 10_000) return;
      toldAt = performance.now();
      console.log(`${done} cases, ${broken.length} broken, ${(done / (ms / 1000)).toFixed(2)} a second`);
    },
  });
} finally {
  await client.close();
  await mongod.stop();
  rmSync(directory, { recursive: true, force: true });
}
summary(total);
process.exit(total.broken.length === 0 ? 0 : 1);

// ---------------------------------------------------------------------------------------------------------------------

function again(name: string): string {
  const binary = values.binary === undefined ? "" : ` --binary=${values.binary}`;
  const seed = /^seed (\d+)$/.exec(name)?.[1];
  return seed === undefined
    ? `./scripts/property --cases=0${binary}`
    : `./scripts/property --cases=1 --seed=${seed} --no-directed${binary}`;
}

function summary({ cases: done, commands, rotations, destroyed, refusals, broken, ms, ...rest }: Total): void {
  console.log(
    `\n${done} cases, ${(ms / 1000).toFixed(0)} s, ${(done / (ms / 1000)).toFixed(2)} cases a second: ${commands} commands, ` +
      `${rotations} rotations completed, ${destroyed} keys destroyed`,
  );
  if (values.refusals)
    for (const [message, times] of [...refusals].sort((a, b) => b[1] - a[1])) console.log(`  ${times}  ${message}`);
  const all = { cases: done, commands, rotations, destroyed, refusals, broken, ms, ...rest };
  for (const [name, times] of byClass(all)) console.log(`  BROKEN ${times}  ${name}`);
  for (const { story } of broken) console.log(`  again: ${again(story.name)}`);
  if (broken.length === 0) console.log("  every envelope opens");
}
