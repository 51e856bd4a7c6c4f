import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { columns, type Line, line, ratio } from "./line.ts";
import { startTransit } from "./peers/transit.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { thereAndBack } from "./rounds.ts";
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
  const each = await thereAndBack(rounds, async (to, timed) => {
    const { rewrapSeconds } = await timed(() => rotate(stage, database, to, { variables: NO_DRAIN }));
    const rates = {
      rotate: records / rewrapSeconds,
      clientSide: python === undefined ? Number.NaN : await timed(async () => clientSide(stage, python, records)),
      transit: (await timed(async () => await transit?.rewrapAll())) ?? Number.NaN,
    };
    say(`peers: ${Object.entries(rates).map(([name, rate]) => `${name} ${Math.round(rate)}/s`)}`);
    return rates;
  });
  await transit?.stop();
  await stage.client.db(database).dropDatabase();
  const of = columns(each);
  const lines = [line(TOPIC, "kek rotate, rewrap phase", "records/s", of("rotate"))];
  if (python !== undefined)
    lines.push(
      line(TOPIC, "MongoDB's rewrapManyDataKey, local KMS", "keys/s", of("clientSide")),
      line(TOPIC, "rotate / rewrapManyDataKey", "×", ratio(of("rotate"), of("clientSide")), { atLeast: 25 }),
    );
  if (transit !== undefined)
    lines.push(
      line(TOPIC, "a transit engine's rewrap, and bulkWrite", "records/s", of("transit")),
      line(TOPIC, "rotate / transit engine and bulkWrite", "×", ratio(of("rotate"), of("transit")), { atLeast: 1.3 }),
    );
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

/** @returns data keys a second. */
function clientSide(stage: Stage, python: string, keys: number): number {
  const words = [join(import.meta.dir, "peers/client_side.py"), stage.mongod.uri, "client_side", String(keys), "1"];
  return Number(execFileSync(python, words, { encoding: "utf8" }));
}
