import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { type Line, line, ratio } from "./line.ts";
import { startTransit } from "./peers/transit.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { seed } from "./seed.ts";
import { type Stage, say } from "./stage.ts";

/** What else there is to change a KEK with, in turns. */

const TOPIC = "Against other ways to change a KEK";

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
  const rates = { rotate: [] as number[], clientSide: [] as number[], transit: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    const { rewrapSeconds } = await rotate(stage, database, round % 2 === 0 ? 2 : 1, {
      variables: NO_DRAIN,
    });
    rates.rotate.push(records / rewrapSeconds);
    if (python !== undefined) {
      const words = [
        join(import.meta.dir, "peers/client_side.py"),
        stage.mongod.uri,
        "client_side",
        String(records),
        "1",
      ];
      rates.clientSide.push(Number(execFileSync(python, words, { encoding: "utf8" })));
    }
    if (transit !== undefined) rates.transit.push(await transit.rewrapAll());
    say(`peers: round ${round + 1}: ${JSON.stringify(rates)}`);
  }
  await transit?.stop();
  await stage.client.db(database).dropDatabase();
  const lines = [line(TOPIC, "kek rotate, rewrap phase", "records/s", rates.rotate)];
  if (python !== undefined)
    lines.push(
      line(TOPIC, "MongoDB's rewrapManyDataKey, local KMS", "keys/s", rates.clientSide),
      line(TOPIC, "rotate / rewrapManyDataKey", "×", ratio(rates.rotate, rates.clientSide), { atLeast: 25 }),
    );
  if (transit !== undefined)
    lines.push(
      line(TOPIC, "a transit engine's rewrap, and bulkWrite", "records/s", rates.transit),
      line(TOPIC, "rotate / transit engine and bulkWrite", "×", ratio(rates.rotate, rates.transit), { atLeast: 1.3 }),
    );
  return lines;
}
