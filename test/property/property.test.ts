import { expect, test } from "bun:test";
import { availableParallelism } from "node:os";
import { MongoClient } from "mongodb";
import { mongoUri } from "../harness/mongo.ts";
import { runAll, storiesFrom, type Total } from "./campaign.ts";
import { DIRECTED } from "./directed.ts";
import { makeStory, type Story } from "./story.ts";

/** A short run of the property test; the long one is ./scripts/property --cases=2000. */

const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
const CASES = LONG ? 600 : 24;
const LIMIT_MS = LONG ? 1_800_000 : 300_000;

test("a seed decides a story", () => {
  expect(makeStory(7)).toEqual(makeStory(7));
  expect(makeStory(7)).not.toEqual(makeStory(8));
});

test(
  "no loss that was found once is possible",
  async () => {
    expect(broken(await run(DIRECTED))).toEqual({});
  },
  LIMIT_MS,
);

test(
  "after every command of a random case every envelope opens",
  async () => {
    const total = await run(storiesFrom(1, CASES));
    expect(broken(total)).toEqual({});
    // A program that refused everything would lose nothing, either.
    expect(total.rotations).toBeGreaterThan(CASES / 6);
    expect(total.destroyed).toBeGreaterThan(CASES / 12);
  },
  LIMIT_MS,
);

// ---------------------------------------------------------------------------------------------------------------------

async function run(stories: Iterable<Story>): Promise<Total> {
  const uri = await mongoUri();
  const client = await new MongoClient(uri).connect();
  try {
    return await runAll({ stories, uri, client, jobs: 2 * availableParallelism() });
  } finally {
    await client.close();
  }
}

/** What was found, by case; the whole story goes to the log. */
function broken(total: Total): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const { story, outcome } of total.broken) {
    console.error(`${story.name}:\n  ${outcome.story.join("\n  ")}`);
    found[story.name] = outcome.findings.map(({ kind, cause, text }) => `${kind} (${cause}): ${text}`);
  }
  return found;
}
