import { afterAll } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Db, MongoClient } from "mongodb";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";

/** A real replica set: the one that scripts/test started, or one of this test file's own. */

let shared: Promise<string> | undefined;

export async function mongoUri(): Promise<string> {
  shared ??=
    process.env["CERTAUTOPILOT_TEST_MONGO"] === undefined
      ? startOwn()
      : Promise.resolve(process.env["CERTAUTOPILOT_TEST_MONGO"]);
  return await shared;
}

/** A database of the caller's own, dropped after its test file. @param at a replica set; without it, the one for all. */
export async function freshDatabase(at?: string): Promise<{ uri: string; name: string; db: Db; client: MongoClient }> {
  const uri = at ?? (await mongoUri());
  const name = `t_${randomBytes(6).toString("hex")}`;
  const client = await new MongoClient(uri, {
    writeConcern: { w: "majority", journal: true },
    readConcern: { level: "majority" },
  }).connect();
  afterAll(async () => {
    await client.db(name).dropDatabase();
    await client.close();
  });
  return { uri, name, db: client.db(name), client };
}

async function startOwn(): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-test-"));
  const mongod = await startPrivateMongod(directory);
  // Within a test this is run at the end of that test: the next one starts another.
  afterAll(async () => {
    shared = undefined;
    await mongod.stop();
    rmSync(directory, { recursive: true, force: true });
  });
  return mongod.uri;
}
