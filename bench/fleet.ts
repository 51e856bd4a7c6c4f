import { spawn } from "node:child_process";
import { join } from "node:path";
import { type Line, line } from "./line.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { quietly, type Timed, turns } from "./rounds.ts";
import { seed } from "./seed.ts";
import { owned, processorTime, type Stage, say, variablesOf } from "./stage.ts";

/** How long a fleet takes to acknowledge, and what its heartbeats cost MongoDB. */

const TOPIC = "Fleet";
const MEMBERS_A_PROCESS = 100;
const IDLE_S = 20;
/** More than a heartbeat of the fleet. */
const LATEST_MS = 15_000;
const WANTED: Record<number, Line["wanted"]> = { 100: { atMost: 2 } };

export async function fleet(stage: Stage, sizes: number[], rounds: number): Promise<Line[]> {
  const database = "fleet";
  await seed(stage, database, 1000);
  const next = turns();
  const lines: Line[] = [];
  for (const members of sizes) {
    say(`fleet: ${members} processes`);
    const leave = await joined(stage, database, members);
    const seconds = [] as number[];
    for (let round = 0; round < rounds; round += 1)
      seconds.push(await quietly((timed) => acknowledging(stage, database, members, next(), timed)));
    lines.push(
      line(
        TOPIC,
        `${members} processes: the four transitions, each until the last acknowledgement`,
        "s",
        seconds,
        WANTED[members],
      ),
    );
    lines.push(...(await idle(stage, members)));
    await leave();
  }
  await stage.client.db(database).dropDatabase();
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

async function joined(stage: Stage, database: string, members: number): Promise<() => Promise<void>> {
  const env = { ...variablesOf(stage, database, 2), ...NO_DRAIN };
  const left: Promise<unknown>[] = [];
  const stops: (() => void)[] = [];
  for (let there = 0; there < members; there += MEMBERS_A_PROCESS) {
    const count = Math.min(MEMBERS_A_PROCESS, members - there);
    const words = [join(import.meta.dir, "light_fleet.ts"), String(count)];
    const child = owned(spawn(process.execPath, words, { env, stdio: ["pipe", "pipe", "inherit"] }));
    left.push(new Promise((resolve) => child.once("close", resolve)));
    stops.push(() => child.stdin.end());
    await new Promise<void>((resolve, reject) => {
      child.stdout.once("data", () => resolve());
      child.once("close", (code) => reject(new Error(`a light fleet ended with ${code}`)));
    });
  }
  return async () => {
    for (const stop of stops) stop();
    await Promise.all(left);
  };
}

/** Seconds from each change of the phase to the last acknowledgement of it, added up: MongoDB's own times of both. */
async function acknowledging(
  stage: Stage,
  database: string,
  members: number,
  to: 1 | 2,
  timed: Timed,
): Promise<number> {
  const db = stage.client.db(database);
  const changed = new Map<string, number>();
  /** By phase, of each process, when. */
  const acknowledged = new Map<string, Map<string, number>>();
  // What was changed, and not the whole document: looking that up for each heartbeat would be work for mongod in what is measured.
  const stream = db.watch([
    {
      $match: {
        "ns.coll": { $in: ["kek_rotations", "process_heartbeats"] },
        operationType: { $in: ["insert", "update", "replace"] },
      },
    },
  ]);
  let over = false;
  const watching = (async () => {
    for await (const event of stream) {
      const { ns, wallTime, documentKey, fullDocument, updateDescription } = event as unknown as Change;
      const at = wallTime.getTime();
      const doc = fullDocument ?? updateDescription?.updatedFields ?? {};
      if (ns.coll === "kek_rotations") {
        const phase = doc["state"] === "completed" ? 0 : doc["phase"];
        const key = `${documentKey._id} ${phase}`;
        if (phase !== undefined && !changed.has(key)) changed.set(key, at);
      } else if (doc["acked"] !== undefined && doc["acked"] !== null) {
        const { rotation, phase } = doc["acked"] as { rotation: unknown; phase: number };
        const key = `${rotation} ${phase}`;
        const those = acknowledged.get(key) ?? new Map<string, number>();
        if (!those.has(String(documentKey._id))) those.set(String(documentKey._id), at);
        acknowledged.set(key, those);
      }
    }
  })().catch((thrown) => {
    // Whoever waits for the next event of a stream that was closed is told so.
    if (!over) throw thrown;
  });
  const rotating = timed(() => rotate(stage, database, to, { variables: NO_DRAIN }));
  await Promise.race([rotating, watching]);
  await rotating;
  const rotation = [...changed.keys()].at(-1)?.split(" ")[0];
  const keys = [1, 2, 3, 0].map((phase) => `${rotation} ${phase}`);
  const missing = () =>
    keys.filter((key) => changed.get(key) === undefined || (acknowledged.get(key)?.size ?? 0) < members);
  // The steady state is acknowledged after the command has ended; by whoever missed the signal, at its next beat.
  for (const until = performance.now() + LATEST_MS; missing().length > 0 && performance.now() < until; )
    await Promise.race([Bun.sleep(50), watching]);
  const [lacking] = missing();
  if (lacking !== undefined) {
    const seen = acknowledged.get(lacking)?.size ?? 0;
    throw new Error(`phase ${lacking.split(" ")[1]} was acknowledged by ${seen} of ${members} processes`);
  }
  over = true;
  await stream.close();
  await watching;
  let sum = 0;
  for (const key of keys) {
    const last = Math.max(...(acknowledged.get(key) ?? new Map()).values());
    const ms = last - (changed.get(key) ?? Number.NaN);
    say(`fleet: phase ${key.split(" ")[1]}: ${ms} ms`);
    sum += Math.max(0, ms);
  }
  return sum / 1000;
}

interface Change {
  ns: { coll: string };
  wallTime: Date;
  documentKey: { _id: unknown };
  fullDocument?: Record<string, unknown>;
  updateDescription?: { updatedFields: Record<string, unknown> };
}

async function idle(stage: Stage, members: number): Promise<Line[]> {
  const operations = async () => {
    const { opcounters } = await stage.client.db("admin").command({ serverStatus: 1 });
    return (
      Number(opcounters.query) + Number(opcounters.update) + Number(opcounters.getmore) + Number(opcounters.command)
    );
  };
  const [before, cpu] = [await operations(), processorTime(stage.mongod.pid)];
  await Bun.sleep(IDLE_S * 1000);
  const [after, spent] = [await operations(), processorTime(stage.mongod.pid) - cpu];
  return [
    line(TOPIC, `${members} processes at rest: mongod's processor time`, "% of a core", [(spent / IDLE_S) * 100]),
    line(TOPIC, `${members} processes at rest: operations at MongoDB`, "a second", [(after - before) / IDLE_S]),
  ];
}
