import { cpus } from "node:os";
import { floor, type Sending, sweep } from "./floor.ts";
import { columns, type Line, line, ratio } from "./line.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { thereAndBack } from "./rounds.ts";
import { seed } from "./seed.ts";
import { processorTime, type Stage, say, sayRates, settled } from "./stage.ts";

/** A rotation beside the floor, in turns, over the same documents. */

const TOPIC = "Rotation against what mongod can do alone";
/** Enough to tell one way of sending from another; larger batches and more workers than these have work for are not tried. */
const SWEPT = 40_000;

/** @param quick tries fewer ways of sending. */
export async function againstFloor(stage: Stage, records: number, rounds: number, quick: boolean): Promise<Line[]> {
  const database = "floor";
  say(`floor: writing ${records} records of 2 KiB`);
  await seed(stage, database, records);
  say("floor: looking for the best way of sending");
  const tried = await sweep(stage, database, Math.min(records, SWEPT), quick);
  const best = (form: Sending["form"]) =>
    tried.filter((sending) => sending.form === form).reduce((a, b) => (b.rate > a.rate ? b : a));
  const [single, grouped] = [best("single"), best("grouped")];
  const each = await thereAndBack(rounds, async (to, timed) => {
    const alone = await floor(stage, database, records, single, timed);
    const together = await floor(stage, database, records, grouped, timed);
    await settled(stage);
    const before = processorTime(stage.mongod.pid);
    const rotated = await timed(() => rotate(stage, database, to, { variables: NO_DRAIN }));
    const mongod = (processorTime(stage.mongod.pid) - before) / records;
    const rates = { single: alone.rate, grouped: together.rate, rotate: records / rotated.rewrapSeconds };
    sayRates("floor", rates);
    return {
      ...rates,
      singleMongod: alone.processorSeconds * 1e6,
      groupedMongod: together.processorSeconds * 1e6,
      mongod: mongod * 1e6,
      program: (rotated.processorSeconds / records) * 1e6,
    };
  });
  await stage.client.db(database).dropDatabase();
  const of = columns(each);
  const full = each.map(({ mongod, program }) => (cpus().length * 1e6) / (mongod + program));
  const told = ({ batch, workers }: Sending) => `${batch} a command, ${workers} commands in flight`;
  const wanted = { atLeast: 0.9 };
  return [
    line(TOPIC, `floor, a statement a record (${told(single)})`, "records/s", of("single")),
    line(TOPIC, `floor, the grouped statement of a rotation (${told(grouped)})`, "records/s", of("grouped")),
    line(TOPIC, "kek rotate, rewrap phase", "records/s", of("rotate")),
    line(TOPIC, "rotate / floor, a statement a record", "×", ratio(of("rotate"), of("single")), wanted),
    line(TOPIC, "rotate / floor, the same grouped statement", "×", ratio(of("rotate"), of("grouped")), wanted),
    line(TOPIC, "processor time a record: mongod, by a statement a record", "µs", of("singleMongod")),
    line(TOPIC, "processor time a record: mongod, by the grouped statement", "µs", of("groupedMongod")),
    line(TOPIC, "processor time a record: mongod, during kek rotate", "µs", of("mongod")),
    line(TOPIC, "processor time a record: kek rotate itself", "µs", of("program")),
    line(
      TOPIC,
      "estimate: all processors busy with both / floor, the same grouped statement",
      "×",
      ratio(full, of("grouped")),
    ),
  ];
}
