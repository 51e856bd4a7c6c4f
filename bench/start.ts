import { statSync } from "node:fs";
import { type Line, line, median } from "./line.ts";
import { quietlyWhole } from "./rounds.ts";
import { seed } from "./seed.ts";
import { BINARY, type Stage, say, serve, succeed, variablesOf } from "./stage.ts";

/** Small commands as whole processes, in turns. */

const TOPIC = "Start";
/** In a round: of one alone the kernel's clock does not tell what the host kept back. */
const TIMES = 5;
const COMMANDS = [
  { words: ["--version"], wanted: { atMost: 20 } },
  { words: ["kek", "verify", "--target=2", "--no-backup-check"], wanted: { atMost: 120 } },
  { words: ["kek", "status"] },
];

export async function start(stage: Stage, rounds: number): Promise<Line[]> {
  const database = "start";
  say("start: small commands as whole processes");
  await seed(stage, database, 1000);
  const variables = variablesOf(stage, database, 2);
  const member = await serve(variables);
  const taken = COMMANDS.map(() => [] as number[]);
  try {
    for (let round = 0; round < rounds; round += 1) {
      const all = await quietlyWhole(async () => {
        const seconds = COMMANDS.map(() => [] as number[]);
        for (let time = 0; time < TIMES; time += 1)
          for (const [at, { words }] of COMMANDS.entries())
            seconds[at]?.push((await succeed(words, variables)).seconds);
        return seconds;
      });
      for (const [at, seconds] of all.entries()) taken[at]?.push(median(seconds) * 1000);
    }
  } finally {
    await member.stop();
  }
  await stage.client.db(database).dropDatabase();
  return [
    ...COMMANDS.map(({ words, wanted }, at) =>
      line(TOPIC, `certautopilot ${words.join(" ")}`, "ms", taken[at] ?? [], wanted),
    ),
    line(TOPIC, "size of the binary", "MB", [statSync(BINARY).size / 2 ** 20]),
  ];
}
