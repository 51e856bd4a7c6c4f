import { MongoClient } from "mongodb";
import { columns, type Line, line, ratio } from "./line.ts";
import { quietly } from "./rounds.ts";
import { seed } from "./seed.ts";
import { FIELD, type Stage, say, succeed, variablesOf } from "./stage.ts";

/** Reading a whole database for envelopes, beside a bare read of the same collection through the driver. */

const TOPIC = "Search of every collection for envelopes";
/** Every record has an envelope: the smaller it is, the more there is to search in a megabyte. */
const SIZES = [512, 2048];

export async function scan(stage: Stage, records: number, rounds: number): Promise<Line[]> {
  const lines: Line[] = [];
  for (const bytes of SIZES) {
    const database = `scan_${bytes}`;
    say(`scan: writing ${records} records of ${bytes} bytes`);
    await seed(stage, database, records, bytes);
    const each: { bare: number; scan: number; memory: number }[] = [];
    for (let round = 0; round < rounds; round += 1)
      each.push(
        await quietly(async (timed) => {
          const bare = await timed(() => bareRead(stage, database));
          const ran = await timed(() =>
            succeed(["kek", "verify", "--discover", "--json"], variablesOf(stage, database, 1)),
          );
          const { scanned } = JSON.parse(ran.stdout) as { scanned: { bytes: number; seconds: number } };
          const rates = { bare, scan: scanned.bytes / scanned.seconds / 1e9, memory: ran.peakMb };
          say(`scan: bare ${rates.bare.toFixed(2)} GB/s, kek verify --discover ${rates.scan.toFixed(2)} GB/s`);
          return rates;
        }),
      );
    await stage.client.db(database).dropDatabase();
    const of = columns(each);
    const what = `${records} records of ${bytes} bytes`;
    lines.push(
      line(TOPIC, `${what}: bare read through the driver`, "GB/s", of("bare")),
      line(TOPIC, `${what}: kek verify --discover`, "GB/s", of("scan")),
      line(TOPIC, `${what}: kek verify --discover / bare`, "×", ratio(of("scan"), of("bare")), { atLeast: 0.8 }),
      line(TOPIC, `${what}: most memory of the command`, "MB", of("memory")),
    );
  }
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

/** With a connection of its own. @returns billions of bytes a second. */
async function bareRead(stage: Stage, database: string): Promise<number> {
  const client = await new MongoClient(stage.mongod.uri).connect();
  try {
    const began = performance.now();
    const cursor = client
      .db(database)
      .collection(FIELD.collection)
      .find({}, { raw: true, hint: { $natural: 1 } });
    let bytes = 0;
    while (await cursor.hasNext())
      for (const record of cursor.readBufferedDocuments()) bytes += (record as unknown as Uint8Array).length;
    return bytes / (performance.now() - began) / 1e6;
  } finally {
    await client.close();
  }
}
