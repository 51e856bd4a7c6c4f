import { spawn } from "node:child_process";
import { join } from "node:path";
import { columns, type Line, line, ratio } from "./line.ts";
import { startTransit } from "./peers/transit.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { thereAndBack } from "./rounds.ts";
import { seed } from "./seed.ts";
import { owned, type Stage, sayRates, settled } from "./stage.ts";

/** What else there is to change a KEK with, in turns. */

const TOPIC = "Against other ways to change a KEK";
/** Data keys in one call, where not all are in one. */
const PORTION = 500;

export interface Peers {
  /** A Python with pymongo[encryption]. */
  python: string | undefined;
  /** OpenBao or Vault. */
  vault: string | undefined;
}

export async function againstPeers(
  stage: Stage,
  records: number,
  rounds: number,
  { python, vault }: Peers,
): Promise<Line[]> {
  const database = "peers";
  await seed(stage, database, records);
  const transit = vault === undefined ? undefined : await startTransit(stage, vault, records, 2048);
  const each = await thereAndBack(rounds, async (to, timed) => {
    await settled(stage);
    const { rewrapSeconds } = await timed(() => rotate(stage, database, to, { variables: NO_DRAIN }));
    await settled(stage);
    const [atOnce, inPortions] =
      python === undefined ? [Number.NaN, Number.NaN] : await timed(() => clientSide(stage, python, records));
    await settled(stage);
    const transited = (await timed(async () => await transit?.rewrapAll())) ?? Number.NaN;
    const rates = { rotate: records / rewrapSeconds, atOnce, inPortions, transit: transited };
    sayRates("peers", rates);
    return rates;
  }).finally(() => transit?.stop());
  await stage.client.db(database).dropDatabase();
  const of = columns(each);
  const keys = records.toLocaleString("en");
  const lines = [line(TOPIC, `kek rotate, rewrap phase, ${keys} records`, "records/s", of("rotate"))];
  if (python !== undefined)
    lines.push(
      line(TOPIC, `MongoDB's rewrapManyDataKey, local KMS, ${keys} in one call`, "keys/s", of("atOnce")),
      line(TOPIC, "rotate / rewrapManyDataKey", "×", ratio(of("rotate"), of("atOnce")), { atLeast: 25 }),
      line(TOPIC, `rewrapManyDataKey, ${PORTION} in a call`, "keys/s", of("inPortions")),
      line(TOPIC, `rotate / rewrapManyDataKey, ${PORTION} in a call`, "×", ratio(of("rotate"), of("inPortions"))),
    );
  if (transit !== undefined)
    lines.push(
      line(TOPIC, "a transit engine's rewrap, and bulkWrite", "records/s", of("transit")),
      line(TOPIC, "rotate / transit engine and bulkWrite", "×", ratio(of("rotate"), of("transit")), { atLeast: 1.3 }),
    );
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

/** @returns data keys a second, by one call and by many. */
async function clientSide(stage: Stage, python: string, keys: number): Promise<[atOnce: number, inPortions: number]> {
  const script = join(import.meta.dir, "peers/client_side.py");
  const words = [script, stage.mongod.uri, "client_side", String(keys), String(PORTION)];
  const child = owned(spawn(python, words, { stdio: ["ignore", "pipe", "inherit"] }));
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`${script} ended with ${code}`);
  const [atOnce, inPortions] = said.trim().split("\n").map(Number);
  return [atOnce ?? Number.NaN, inPortions ?? Number.NaN];
}
