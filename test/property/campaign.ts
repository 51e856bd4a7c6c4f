import type { MongoClient } from "mongodb";
import { type Conditions, type Finding, type Outcome, runCase } from "./case.ts";
import { Program } from "./program.ts";
import { makeStory, type Story } from "./story.ts";

/** Many cases side by side against one mongod. */

export interface Total {
  cases: number;
  commands: number;
  rotations: number;
  destroyed: number;
  /** How often each message ended a command, without the names in it. */
  refusals: Map<string, number>;
  broken: { story: Story; outcome: Outcome }[];
  ms: number;
}

export interface Wanted {
  stories: Iterable<Story>;
  uri: string;
  client: MongoClient;
  program?: Program;
  /** Cases at once. */
  jobs: number;
  onCase?: (story: Story, outcome: Outcome, total: Total) => void;
}

/** Stories by seed, from the first on. */
export function* storiesFrom(seed: number, count: number): Generator<Story> {
  for (let each = seed; each < seed + count; each += 1) yield makeStory(each);
}

export async function runAll({ stories, uri, client, program = new Program(), jobs, onCase }: Wanted): Promise<Total> {
  const total: Total = { cases: 0, commands: 0, rotations: 0, destroyed: 0, refusals: new Map(), broken: [], ms: 0 };
  const began = performance.now();
  const conditions: Conditions = { program, client, uri };
  const left = stories[Symbol.iterator]();
  await Promise.all(
    Array.from({ length: jobs }, async () => {
      for (let next = left.next(); !next.done; next = left.next()) {
        const outcome = await runCase(next.value, conditions).catch(unable);
        add(total, next.value, outcome);
        total.ms = performance.now() - began;
        onCase?.(next.value, outcome, total);
      }
    }),
  );
  return total;
}

/** Losses by what caused them, and everything else by its kind. */
export function byClass(total: Total): Map<string, number> {
  const classes = new Map<string, number>();
  for (const { outcome } of total.broken)
    for (const name of new Set(outcome.findings.map(classOf))) classes.set(name, (classes.get(name) ?? 0) + 1);
  return classes;
}

// ---------------------------------------------------------------------------------------------------------------------

function classOf({ kind, cause }: Finding): string {
  return cause === undefined ? kind : `${kind}: ${cause}`;
}

function add(total: Total, story: Story, outcome: Outcome): void {
  total.cases += 1;
  total.commands += outcome.commands;
  total.rotations += outcome.rotations;
  total.destroyed += outcome.destroyed;
  for (const refusal of outcome.refusals) {
    const message = refusal
      .replace(/property_\w+\.(renamed|orders)? ?[^:\s]*/g, "…")
      .replace(/\d+/g, "N")
      .replace(/(of|on|field) \S*?:\S+/g, "$1 …")
      .slice(0, 110);
    total.refusals.set(message, (total.refusals.get(message) ?? 0) + 1);
  }
  if (outcome.findings.length > 0) total.broken.push({ story, outcome });
}

/** The test itself went wrong: that must not pass for a case without a finding. */
function unable(thrown: Error): Outcome {
  const finding: Finding = { kind: "fault", text: `the case could not be run: ${thrown.stack ?? thrown.message}` };
  return { findings: [finding], story: [], commands: 0, rotations: 0, destroyed: 0, refusals: [] };
}
