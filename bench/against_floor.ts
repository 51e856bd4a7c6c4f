import { floor, type Sending, sweep } from "./floor.ts";
import { type Line, line, ratio } from "./line.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { seed } from "./seed.ts";
import { type Stage, say } from "./stage.ts";

/** A rotation beside the floor, in turns, over the same documents. */

const TOPIC = "Rotation against what mongod can do alone";
/** Enough to tell one way of sending from another. */
const SWEPT = 20_000;

/** @param quick tries fewer ways of sending. */
export async function againstFloor(stage: Stage, records: number, rounds: number, quick: boolean): Promise<Line[]> {
  const database = "floor";
  say(`floor: writing ${records} records of 2 KiB`);
  await seed(stage, database, records);
  const tried = await sweep(stage, database, Math.min(records, SWEPT), quick);
  const best = (form: Sending["form"]) =>
    tried.filter((sending) => sending.form === form).reduce((a, b) => (b.rate > a.rate ? b : a));
  const [single, grouped] = [best("single"), best("grouped")];
  const rates = { single: [] as number[], grouped: [] as number[], rotate: [] as number[] };
  // What was written before is on disk: each begins with a mongod that has nothing left to do for the one before.
  const settled = async () => await stage.client.db("admin").command({ fsync: 1 });
  for (let round = 0; round < rounds; round += 1) {
    await settled();
    rates.single.push(await floor(stage, database, records, single));
    await settled();
    rates.grouped.push(await floor(stage, database, records, grouped));
    await settled();
    const { rewrapSeconds } = await rotate(stage, database, round % 2 === 0 ? 2 : 1, {
      variables: NO_DRAIN,
    });
    rates.rotate.push(records / rewrapSeconds);
    say(
      `round ${round + 1}: ${Object.entries(rates)
        .map(([name, all]) => `${name} ${Math.round(all[round] ?? 0)}/s`)
        .join(", ")}`,
    );
  }
  await stage.client.db(database).dropDatabase();
  const told = ({ batch, lanes }: Sending) => `${batch} a command, ${lanes} commands in flight`;
  return [
    line(TOPIC, `floor, a statement a record (${told(single)})`, "records/s", rates.single),
    line(TOPIC, `floor, the grouped statement of a rotation (${told(grouped)})`, "records/s", rates.grouped),
    line(TOPIC, "kek rotate, rewrap phase", "records/s", rates.rotate),
    line(TOPIC, "rotate / floor, a statement a record", "×", ratio(rates.rotate, rates.single), { atLeast: 0.9 }),
    line(TOPIC, "rotate / floor, the same grouped statement", "×", ratio(rates.rotate, rates.grouped), {
      atLeast: 0.9,
    }),
  ];
}
