import { randomBytes } from "node:crypto";
import { serialize } from "bson";
import { Binary, Int32 } from "mongodb";
import { DocumentSequence } from "mongodb/lib/cmap/commands.js";
import { quietly, type Timed } from "./rounds.ts";
import { FIELD, processorTime, type Stage, settled } from "./stage.ts";

/**
 * What mongod alone makes of a rotation's updates: the same two fields of the same documents, under the same indexes and the
 * same write concern, sent by the bare driver from bytes made before, with nothing read, wrapped or serialized on the way.
 */

/** How the updates are put to mongod: a statement a record, or the grouped statement that a rotation sends. */
export type Form = "single" | "grouped";

export interface Sending {
  form: Form;
  /** Records in one command. */
  batch: number;
  /** Commands in flight. */
  workers: number;
  /** Records; without it, as fast as it goes. */
  perSecond?: number;
}

interface Wrapped {
  _id: unknown;
  wrap: Binary;
}

const GROUP = 64;
const NOBODYS = 3;
const KEY = `${FIELD.path}.kek_version`;
const WRAP = `${FIELD.path}.wrapped_dek`;

/** @returns records a second for each way of sending, the best of which is the floor. */
export async function sweep(
  stage: Stage,
  database: string,
  records: number,
  quick: boolean,
): Promise<(Sending & Floor)[]> {
  const tried: (Sending & Floor)[] = [];
  for (const form of ["single", "grouped"] as const)
    for (const batch of quick ? [1000] : [500, 1000, 2000, 4000])
      for (const workers of quick ? [4] : [2, 4, 8, 16]) {
        // With fewer commands not all workers would be at work for long.
        if (records / batch < 2 * workers) continue;
        const sending = { form, batch, workers };
        tried.push({ ...sending, ...(await quietly((timed) => floor(stage, database, records, sending, timed))) });
      }
  return tried;
}

export interface Floor {
  /** Records a second. */
  rate: number;
  /** Of mongod, in seconds a record. */
  processorSeconds: number;
}

/** Moves so many records to a version that nobody uses, then all of them back; the way there is what counts. */
export async function floor(
  stage: Stage,
  database: string,
  records: number,
  sending: Sending,
  timed: Timed,
): Promise<Floor> {
  const { there, back } = await prepared(stage, database, records, sending);
  await settled(stage);
  const before = processorTime(stage.mongod.pid);
  const seconds = await timed(there);
  const processorSeconds = (processorTime(stage.mongod.pid) - before) / records;
  await back();
  // Hundreds of thousands of statements: whoever is measured next is not to share the processors with their collection.
  Bun.gc(true);
  return { rate: records / seconds, processorSeconds };
}

/** The same with everything made and nothing sent yet: each way returns how many seconds its commands took. */
export async function prepared(
  stage: Stage,
  database: string,
  records: number,
  sending: Sending,
): Promise<{ there(): Promise<number>; back(): Promise<number> }> {
  const documents = await stage.client
    .db(database)
    .collection(FIELD.collection)
    .find({}, { projection: { [WRAP]: 1, [KEY]: 1 }, sort: { _id: 1 }, limit: records })
    .toArray();
  const before = documents.map((document) => ({ _id: document._id, wrap: document[FIELD.path].wrapped_dek as Binary }));
  const after = before.map(({ _id }) => ({ _id, wrap: new Binary(randomBytes(60), 0) }));
  const at = Number(documents[0]?.[FIELD.path].kek_version);
  const [away, home] = [
    commandsOf(before, after, [at, NOBODYS], sending),
    commandsOf(after, before, [NOBODYS, at], sending),
  ];
  return {
    there: async () => await send(stage, database, away, records, sending),
    back: async () => await send(stage, database, home, records, sending),
  };
}

// ---------------------------------------------------------------------------------------------------------------------

function commandsOf(
  olds: Wrapped[],
  news: Wrapped[],
  versions: [from: number, to: number],
  { form, batch }: Sending,
): DocumentSequence[] {
  const size = form === "single" ? 1 : GROUP;
  const commands: DocumentSequence[] = [];
  for (let start = 0; start < olds.length; start += batch) {
    const end = Math.min(start + batch, olds.length);
    const updates = new DocumentSequence("updates", []);
    for (let at = start; at < end; at += size) {
      const to = Math.min(at + size, end);
      updates.push({}, serialize(statement(olds.slice(at, to), news.slice(at, to), versions)));
    }
    commands.push(updates);
  }
  return commands;
}

/** @returns how many seconds the commands took. */
async function send(
  stage: Stage,
  database: string,
  commands: DocumentSequence[],
  records: number,
  { batch, workers, perSecond }: Sending,
): Promise<number> {
  const db = stage.client.db(database);
  const waiting = [...commands];
  let moved = 0;
  let sent = 0;
  const worker = async () => {
    for (let updates = waiting.shift(); updates !== undefined; updates = waiting.shift()) {
      const early = perSecond === undefined ? 0 : began + (sent * 1000) / perSecond - performance.now();
      sent += batch;
      if (early > 1) await Bun.sleep(early);
      const writeConcern = { w: "majority", j: true };
      const reply = await db.command({ update: FIELD.collection, ordered: false, updates, writeConcern });
      moved += Number(reply["nModified"]);
    }
  };
  const began = performance.now();
  await Promise.all(Array.from({ length: workers }, worker));
  const seconds = (performance.now() - began) / 1000;
  if (moved !== records) throw new Error(`the floor moved ${moved} of ${records} records`);
  return seconds;
}

function statement(olds: Wrapped[], news: Wrapped[], [from, to]: [number, number]): object {
  const [old, next] = [olds[0] as Wrapped, news[0] as Wrapped];
  const at = { [KEY]: new Int32(from) };
  const hint = { _id: 1 };
  if (olds.length === 1) {
    const u = { $set: { [KEY]: new Int32(to), [WRAP]: next.wrap } };
    return { q: { _id: old._id, ...at, [WRAP]: old.wrap }, u, hint };
  }
  const literal = (wraps: Wrapped[]) => ({ $literal: wraps.map(({ wrap }) => wrap) });
  // biome-ignore lint/suspicious/noThenProperty: the name is MongoDB's
  const branch = { case: { $gte: ["$$at", 0] }, then: { $arrayElemAt: [literal(news), "$$at"] } };
  const vars = { at: { $indexOfArray: [literal(olds), `$${WRAP}`] } };
  const chosen = { $let: { vars, in: { $switch: { branches: [branch] } } } };
  return {
    q: { _id: { $in: olds.map(({ _id }) => _id) }, ...at, [WRAP]: { $in: olds.map(({ wrap }) => wrap) } },
    u: [{ $set: { [KEY]: new Int32(to), [WRAP]: chosen } }],
    multi: true,
    hint,
  };
}
