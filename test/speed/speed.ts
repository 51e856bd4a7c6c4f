import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Binary, Int32, MongoClient } from "mongodb";
import { startServe, stopServe } from "../../src/demo/fleet.ts";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { dekAadOf, placeOf } from "../../src/envelope/aad.ts";
import { newDek } from "../../src/envelope/field_cipher.ts";
import { wrapWithKey } from "../../src/envelope/gcm.ts";

/**
 * How long a rotation of N records of 2 KiB takes on this machine with mongod beside it, how much memory it takes, and how
 * fast small commands start. Beside it, in the same run, what mongod alone makes of the same number of plain updates.
 */

const ROOT = join(import.meta.dir, "../..");
const BINARY = join(ROOT, "dist/certautopilot");
const records = Number(process.argv[2] ?? 1_000_000);
const DATABASE = "speed";

const directory = mkdtempSync(join(tmpdir(), "certautopilot-speed-"));
const mongod = await startPrivateMongod(directory);
const client = new MongoClient(mongod.uri);
const served: Awaited<ReturnType<typeof startServe>>[] = [];
try {
  const keks = { 1: randomBytes(32), 2: randomBytes(32) };
  const variables = (current: number) => ({
    CERTAUTOPILOT_DATABASE_URI: mongod.uri,
    CERTAUTOPILOT_DATABASE_NAME: DATABASE,
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-this-run",
    CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(current),
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: keks[1].toString("hex"),
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: keks[2].toString("hex"),
    CERTAUTOPILOT_FIELDS: "secrets:value",
  });
  await stopServe(await startServe("first", "api", variables(1)));
  const db = client.db(DATABASE);
  const install = await db.collection("kek_install").findOne({});
  say(`writing ${records} records of 2 KiB`);
  const aad = dekAadOf(install?.["install_id"], "env", 1, "secrets", "value");
  const BATCH = 2000;
  for (let start = 0; start < records; start += BATCH) {
    const documents = Array.from({ length: Math.min(BATCH, records - start) }, (_, index) => {
      const id = start + index;
      const wrapped = wrapWithKey(keks[1], newDek(), aad(placeOf("secrets", id, "value").idBson));
      const ciphertext = new Binary(randomBytes(1880), 0);
      const nonce = new Binary(randomBytes(12), 0);
      return {
        _id: id as never,
        value: {
          format: new Int32(1),
          provider: "env",
          kek_version: new Int32(1),
          wrapped_dek: new Binary(wrapped, 0),
          nonce,
          ciphertext,
        },
      };
    });
    await db.collection("secrets").insertMany(documents, { ordered: false });
  }
  for (const name of ["a", "b", "c"]) served.push(await startServe(name, "api", variables(2)));

  say("plain updates, one statement a record, w:majority and journaled:");
  const floor = await plainUpdates(Math.min(100_000, records));
  say(`  ${Math.round(floor)} records/s`);
  say("kek rotate --to-version=2, a fleet of three, default settings:");
  const rotated = await timed(["kek", "rotate", "--to-version=2", "--json"], variables(2));
  const rate = records / rotated.seconds;
  say(
    `  ${rotated.seconds.toFixed(1)} s for the whole command, drain included: ${Math.round(rate)} records/s (${(rate / floor).toFixed(2)} of the plain updates)`,
  );
  say(`  peak memory ${rotated.peakMb} MB, exit code ${rotated.code}`);
  for (const words of [["--version"], ["kek", "verify", "--target=2"], ["kek", "status"]]) {
    const times: number[] = [];
    for (let run = 0; run < 11; run += 1) times.push((await timed(words, variables(2))).seconds * 1000);
    const median = times.sort((a, b) => a - b)[5] as number;
    say(`certautopilot ${words.join(" ")}: ${median.toFixed(0)} ms (median of 11)`);
  }
} finally {
  await Promise.all(served.map(stopServe));
  await client.close();
  await mongod.stop();
  rmSync(directory, { recursive: true, force: true });
}

// ---------------------------------------------------------------------------------------------------------------------

function say(line: string): void {
  console.log(line);
}

async function timed(words: string[], variables: Record<string, string>) {
  const began = performance.now();
  const child = spawn(BINARY, words, {
    env: { PATH: process.env["PATH"] ?? "", ...variables },
    stdio: ["ignore", "ignore", "inherit"],
  });
  let peakMb = 0;
  const sampler = setInterval(() => {
    try {
      const kb = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1];
      peakMb = Math.max(peakMb, Math.round(Number(kb ?? 0) / 1024));
    } catch {
      // It has ended.
    }
  }, 200);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  clearInterval(sampler);
  return { seconds: (performance.now() - began) / 1000, peakMb, code };
}

/** The same fields of the same documents, and back to where they were: a census afterwards finds nothing changed. */
async function plainUpdates(count: number): Promise<number> {
  const collection = client.db(DATABASE).collection<{ _id: number; value: { wrapped_dek: Binary } }>("secrets");
  const documents = await collection
    .find({}, { projection: { "value.wrapped_dek": 1 }, sort: { _id: 1 }, limit: count })
    .toArray();
  const LANES = 2;
  const BATCH = 1000;
  let next = 0;
  const began = performance.now();
  const lane = async () => {
    for (;;) {
      const batch = documents.slice(next, next + BATCH);
      next += BATCH;
      if (batch.length === 0) return;
      const updates = batch.map(({ _id, value }) => ({
        q: { _id, "value.kek_version": 1, "value.wrapped_dek": value.wrapped_dek },
        u: { $set: { "value.kek_version": new Int32(3), "value.wrapped_dek": new Binary(randomBytes(60), 0) } },
      }));
      await client
        .db(DATABASE)
        .command({ update: "secrets", ordered: false, updates, writeConcern: { w: "majority", j: true } });
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  const rate = documents.length / ((performance.now() - began) / 1000);
  for (let start = 0; start < documents.length; start += BATCH) {
    const restore = documents.slice(start, start + BATCH).map(({ _id, value }) => ({
      updateOne: {
        filter: { _id },
        update: { $set: { "value.kek_version": new Int32(1), "value.wrapped_dek": value.wrapped_dek } },
      },
    }));
    await collection.bulkWrite(restore as never, { ordered: false });
  }
  return rate;
}
