import { spawn } from "node:child_process";
import { join } from "node:path";
import { floor, prepared, type Sending } from "./floor.ts";
import { type Line, line, percentile, ratio } from "./line.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { quietly, turns } from "./rounds.ts";
import { seed } from "./seed.ts";
import { FIELD, owned, type Stage, say, settled, variablesOf } from "./stage.ts";

/**
 * What a service notices of a rotation: its encrypted reads and writes before it and during it; and what it would notice of the same
 * updates if they came from nowhere.
 */

const TOPIC = "Disturbance of a service";
/** Enough for a percentile: a rotation of a quarter of a minute. */
const RECORDS = 300_000;
/** Reads a second, and as many writes. */
const RATE = 100;
const BEFORE_MS = 15_000;
/** Operations that were due a moment ago are done by then, mostly; and all of them in so long. */
const LATE_MS = 1500;
const LATEST_MS = 60_000;
/** How a rotation that makes room for a service sends its updates: the bare driver does the same, with nothing read and no keys. */
const AS_A_ROTATION = { form: "grouped", batch: 250, workers: 1 } as const;
const HALF = "at half the floor";
const BARE = "by the bare driver";

interface Work {
  /** @returns how many seconds the records took. */
  watched: () => Promise<number>;
  /** Leaves the records as they were. */
  after?: () => Promise<unknown>;
}

interface Operation {
  kind: "read" | "write";
  at: number;
  ms: number;
}

export async function disturbance(stage: Stage, rounds: number): Promise<Line[]> {
  const database = "disturbance";
  await seed(stage, database, RECORDS);
  const SENDING: Sending = { form: "single", batch: 1000, workers: 4 };
  const paced = await quietly((timed) => floor(stage, database, RECORDS / 3, SENDING, timed));
  const halfOfFloor = paced.rate / 2;
  const measured: Record<string, Record<string, number[]>> = {};
  const note = (when: string, operations: Operation[]) => {
    for (const kind of ["read", "write"] as const)
      for (const [name, share] of [
        ["p50", 0.5],
        ["p99", 0.99],
      ] as const) {
        const ms = operations.filter((each) => each.kind === kind).map((each) => each.ms);
        measured[when] ??= {};
        measured[when][`${kind} ${name}`] ??= [];
        measured[when][`${kind} ${name}`]?.push(percentile(ms, share));
      }
  };
  const paces: Record<string, number[]> = {};
  const next = turns();
  const rotateOn = async (flags: string[]) =>
    (await rotate(stage, database, next(), { flags, variables: NO_DRAIN })).rewrapSeconds;
  const bare = { ...AS_A_ROTATION, perSecond: halfOfFloor };
  // What is made beforehand is made before the service is watched.
  const works: [suffix: string, prepare: () => Promise<Work>][] = [
    ["", async () => ({ watched: () => rotateOn([]) })],
    [`, ${HALF}`, async () => ({ watched: () => rotateOn([`--max-rate=${Math.round(halfOfFloor)}`]) })],
    [
      `, ${HALF} ${BARE}`,
      async () => {
        const { there, back } = await prepared(stage, database, RECORDS, bare);
        return { watched: there, after: back };
      },
    ],
  ];
  const service = await startService(stage, database);
  for (let round = 0; round < rounds; round += 1)
    for (const [suffix, prepare] of works) {
      const { before, during, seconds } = await quietly(async (timed) => {
        const work = await prepare();
        // What the preparations left in memory, and what mongod has to write yet, is not to fall into what is watched.
        Bun.gc(true);
        await settled(stage);
        await Bun.sleep(LATE_MS);
        const began = Date.now();
        await timed(() => Bun.sleep(BEFORE_MS));
        const working = Date.now();
        const seconds = await timed(work.watched);
        const ended = Date.now();
        await Bun.sleep(LATE_MS);
        const seen = { before: await service.due(began, working), during: await service.due(working, ended), seconds };
        await work.after?.();
        return seen;
      });
      paces[suffix] = [...(paces[suffix] ?? []), RECORDS / seconds];
      note(`before${suffix}`, before);
      note(`during${suffix}`, during);
      say(`disturbance: round ${round + 1} of ${rounds}${suffix}`);
    }
  await service.stop();
  await stage.client.db(database).dropDatabase();
  const lines: Line[] = [line(TOPIC, "half of the floor, a statement a record", "records/s", [halfOfFloor])];
  for (const [suffix, values] of Object.entries(paces)) lines.push(line(TOPIC, `pace${suffix}`, "records/s", values));
  for (const [when, figures] of Object.entries(measured))
    for (const [name, values] of Object.entries(figures)) lines.push(line(TOPIC, `${name}, ${when}`, "ms", values));
  for (const [suffix, wanted] of [
    ["", { atMost: 3 }],
    [`, ${HALF}`, { atMost: 1.5 }],
    [`, ${HALF} ${BARE}`, undefined],
  ] as const)
    for (const kind of ["read", "write"]) {
      const of = (when: string) => measured[`${when}${suffix}`]?.[`${kind} p99`] ?? [];
      const ratios = ratio(of("during"), of("before"));
      lines.push(line(TOPIC, `p99 of ${kind}s during / before${suffix}`, "×", ratios, wanted));
    }
  // What no rotation at that pace can spare a service, and what this one adds.
  for (const kind of ["read", "write"]) {
    const of = (suffix: string) => measured[`during${suffix}`]?.[`${kind} p99`] ?? [];
    const ratios = ratio(of(`, ${HALF}`), of(`, ${HALF} ${BARE}`));
    lines.push(line(TOPIC, `p99 of ${kind}s during, ${HALF}: kek rotate / the bare driver`, "×", ratios));
  }
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

async function startService(stage: Stage, database: string) {
  const words = [stage.mongod.uri, database, FIELD.collection, FIELD.path, String(RATE), String(RECORDS)];
  const env = { ...variablesOf(stage, database, 2), ...NO_DRAIN };
  const program = [join(import.meta.dir, "service.ts"), ...words];
  const child = owned(spawn(process.execPath, program, { env, stdio: ["pipe", "pipe", "inherit"] }));
  const operations: Operation[] = [];
  let rest = "";
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.once("close", (code) => reject(new Error(`the service ended with ${code}`)));
    child.stdout.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const text of lines) {
        const [kind, at, ms] = text.split(" ");
        if (kind === "joined") resolve();
        else operations.push({ kind: kind as Operation["kind"], at: Number(at), ms: Number(ms) });
      }
    });
  });
  return {
    /** Those that were due in that time, every one of them: one that is missing would be the slowest. */
    async due(from: number, to: number): Promise<Operation[]> {
      // They are due every so often, whatever became of those before: but for what is cut off at either end.
      const least = 2 * (Math.floor(((to - from) * RATE) / 1000) - 1);
      for (const began = performance.now(); ; await Bun.sleep(100)) {
        const due = operations.filter(({ at }) => at >= from && at < to);
        if (due.length >= least) return due;
        const missing = `${least - due.length} of the service's operations`;
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`the service has ended by itself; ${missing} are missing`);
        if (performance.now() - began > LATEST_MS) throw new Error(`${missing} did not end in ${LATEST_MS / 1000} s`);
      }
    },
    async stop() {
      child.stdin.end();
      await closed;
      if (child.exitCode !== 0) throw new Error(`the service ended with ${child.exitCode}`);
    },
  };
}
