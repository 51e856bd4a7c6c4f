import { floor, type Sending } from "./floor.ts";
import { type Line, line, ratio } from "./line.ts";
import { NO_DRAIN, type Rotated, type Rotating, rotate } from "./rotation.ts";
import { quietly, type Timed, thereAndBack, turns } from "./rounds.ts";
import { seed } from "./seed.ts";
import { memoryOf, type Stage, say, settled } from "./stage.ts";

/** Whether time and memory a record stay what they are when there are more records, more workers, larger documents. */

const TOPIC = "Growth";
/** Kept apart: each topic of a page is of one run. */
const BESIDES = "Lanes, and sizes of documents";
const FLEET = 3;
const LANES = [1, 2, 4];
const KIB = [0.5, 2, 16, 64];
/** For documents of 64 KiB this is a gigabyte. */
const RECORDS_BY_SIZE = 10_000;
/** What is promised is promised of so many, beside so many. */
export const PROMISED_OF = 1_000_000;
const BESIDE = 100_000;
/** The bare driver with the grouped statement, for what of the growth is mongod's own. */
const BARE: Sending = { form: "grouped", batch: 1000, workers: 2 };

/** By a fleet with the settings that it has unless told otherwise. @param sizes numbers of records, ascending. */
export async function growth(stage: Stage, sizes: number[], rounds: number): Promise<Line[]> {
  const bySize = new Map<number, Rotated[]>();
  const bareBySize = new Map<number, number[]>();
  const sown: { records: number; database: string; next: () => 1 | 2 }[] = [];
  for (const records of sizes) {
    sown.push({ records, database: await written(stage, records, 2048), next: turns() });
    bySize.set(records, []);
  }
  // In turns: a machine that is slower for a while is so for all sizes.
  for (let round = 0; round < rounds; round += 1) {
    const all = await quietly(async (timed) => {
      const each: Rotated[] = [];
      for (const { records, database, next } of sown)
        each.push(await once(stage, database, records, next(), { fleet: FLEET }, timed));
      return each;
    });
    for (const [at, rotated] of all.entries()) bySize.get(sizes[at] as number)?.push(rotated);
    // More than that it could not hold ready.
    for (const { records, database } of sown.filter((each) => each.records <= PROMISED_OF).slice(-2)) {
      const { rate } = await quietly((timed) => floor(stage, database, records, BARE, timed));
      say(`growth: ${records} records by the bare driver: ${Math.round(rate)}/s`);
      bareBySize.set(records, [...(bareBySize.get(records) ?? []), 1e6 / rate]);
    }
  }
  for (const { database } of sown) await stage.client.db(database).dropDatabase();
  const lines = [...bySize].flatMap(([records, measured]) => [
    ...both(TOPIC, `${count(records)} of 2 KiB`, records, measured),
    ...whole(records, measured),
  ]);
  for (const [records, micros] of bareBySize)
    lines.push(line(TOPIC, `${count(records)} of 2 KiB: time a record by the bare driver`, "µs", micros));
  const largest = sizes.at(-1) as number;
  const of = (records: number, what: (rotated: Rotated) => number) => (bySize.get(records) ?? []).map(what);
  const times = (records: number) => of(records, ({ rewrapSeconds }) => rewrapSeconds / records);
  const memory = (records: number) => of(records, ({ peakMb }) => peakMb);
  const compared = sizes.includes(PROMISED_OF) ? sizes.indexOf(PROMISED_OF) : sizes.length - 1;
  const [more, fewer] = [sizes[compared], sizes[compared - 1]];
  if (more !== undefined && fewer !== undefined) {
    const both = `${count(more)} / ${fewer.toLocaleString("en")}`;
    const wanted = more === PROMISED_OF && fewer === BESIDE ? { atMost: 1.1 } : undefined;
    const bare = (records: number) => bareBySize.get(records) ?? [];
    lines.push(
      line(TOPIC, `time a record, ${both}`, "×", ratio(times(more), times(fewer)), wanted),
      line(TOPIC, `time a record by the bare driver, ${both}`, "×", ratio(bare(more), bare(fewer))),
      line(TOPIC, `peak memory, ${both}`, "×", ratio(memory(more), memory(fewer)), wanted),
    );
  }
  lines.push(
    line(TOPIC, "peak memory of the rotating process", "MB", memory(largest), { atMost: 300 }),
    line(
      TOPIC,
      "peak memory of a process of the fleet",
      "MB",
      of(largest, ({ fleetMb }) => fleetMb),
    ),
    line(TOPIC, "peak memory of mongod", "MB", [memoryOf(stage.mongod.pid)]),
  );
  return lines;
}

/** On one size of a database: workers, then sizes of documents. */
export async function growthBesides(stage: Stage, records: number, rounds: number): Promise<Line[]> {
  const lines: Line[] = [];
  await withRecords(stage, records, 2048, async (database) => {
    for (const workers of LANES) {
      const rotating = { flags: [`--concurrency=${workers}`], variables: NO_DRAIN };
      const measured = await thereAndBack(rounds, (to, timed) => once(stage, database, records, to, rotating, timed));
      lines.push(
        ...both(
          BESIDES,
          `${workers === 1 ? "1 worker" : `${workers} workers`}, ${count(records)} of 2 KiB`,
          records,
          measured,
        ),
      );
    }
  });
  for (const kib of KIB) {
    const few = Math.min(records, RECORDS_BY_SIZE);
    const measured = await withRecords(stage, few, kib * 1024, (database) =>
      thereAndBack(rounds, (to, timed) => once(stage, database, few, to, { variables: NO_DRAIN }, timed)),
    );
    lines.push(...both(BESIDES, `${count(few)} of ${kib} KiB`, few, measured));
  }
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

let made = 0;

const count = (records: number) => `${records.toLocaleString("en")} records`;

async function withRecords<T>(
  stage: Stage,
  records: number,
  bytes: number,
  work: (database: string) => Promise<T>,
): Promise<T> {
  const database = await written(stage, records, bytes);
  try {
    return await work(database);
  } finally {
    await stage.client.db(database).dropDatabase();
  }
}

/** @returns the database that the records were written to. */
async function written(stage: Stage, records: number, bytes: number): Promise<string> {
  made += 1;
  const database = `growth_${made}`;
  say(`growth: writing ${records} records of ${bytes} bytes`);
  await seed(stage, database, records, bytes);
  return database;
}

async function once(
  stage: Stage,
  database: string,
  records: number,
  to: 1 | 2,
  rotating: Rotating,
  timed: Timed,
): Promise<Rotated> {
  await settled(stage);
  const rotated = await timed(() => rotate(stage, database, to, rotating));
  const { rewrapSeconds, seconds, peakMb } = rotated;
  say(`growth: ${records} records in ${rewrapSeconds.toFixed(1)} s of ${seconds.toFixed(1)} s, ${peakMb} MB`);
  return rotated;
}

function both(topic: string, name: string, records: number, measured: Rotated[]): Line[] {
  const times = measured.map(({ rewrapSeconds }) => (rewrapSeconds / records) * 1e6);
  const memory = measured.map(({ peakMb }) => peakMb);
  return [line(topic, `${name}: time a record`, "µs", times), line(topic, `${name}: peak memory`, "MB", memory)];
}

/** The command from its start to its end, time to drain and all. */
function whole(records: number, measured: Rotated[]): Line[] {
  const name = `${count(records)}, a fleet of ${FLEET}: the whole command`;
  const [all, besides] = records === PROMISED_OF ? [{ atMost: 60 }, { atMost: 8 }] : [undefined, undefined];
  const rest = measured.map(({ seconds, rewrapSeconds }) => seconds - rewrapSeconds);
  return [
    line(
      TOPIC,
      name,
      "s",
      measured.map(({ seconds }) => seconds),
      all,
    ),
    line(TOPIC, `${name}, outside of the rewrap phase`, "s", rest, besides),
  ];
}
