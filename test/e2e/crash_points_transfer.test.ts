import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { type Armed, inLanes, take } from "../harness/crash.ts";
import { TIMES } from "../harness/crash_install.ts";
import { countRight, library, seed } from "../harness/library.ts";
import { run, type TestInstall, testInstall } from "../harness/program.ts";
import { events, proveAudit } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { bytesOf } from "../harness/transfer.ts";

/** `export` and `import`, killed between any two of their writes and again in the recovery. */

setDefaultTimeout(300_000);

const SCRATCH = scratchDirectory();
/** Two batches. */
const COUNT = 600;

/** Version 1 active, nothing in it. */
async function installed(): Promise<TestInstall> {
  const install = await testInstall(TIMES);
  await install.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
  await (await library(install, [1], 1, "first", TIMES)).close();
  return install;
}

async function archived() {
  const install = await installed();
  const seeder = await library(install, [1], 1, "seeder", TIMES);
  await seed(seeder, install, COUNT);
  await seeder.close();
  const identity = await generateX25519Identity();
  const identityFile = join(SCRATCH, `${install.name}.txt`);
  writeFileSync(identityFile, identity, { mode: 0o600 });
  const recipient = await identityToRecipient(identity);
  const exporting = (file: string) => ["export", `--out=${file}`, `--recipient=${recipient}`, "--json"];
  const importing = (file: string) => ["import", `--in=${file}`, `--identity-file=${identityFile}`, "--json"];
  return { install, exporting, importing };
}

const EXPORTS: Armed[] = ["export.told", "export.sealed", "export.exported", "export.named"];

test("export: no archive or a whole one, whose like is made by the same command; no record changes", async () => {
  const { install, exporting, importing } = await archived();
  const before = await bytesOf(install.db);
  for (const dies of EXPORTS) {
    const file = join(SCRATCH, `${dies}.age`);
    await take({ words: exporting(file), dies }, install.variables([1], 1));
    expect(existsSync(file)).toBe(dies === "export.named");
    // What is left of it is sealed, and for its owner alone.
    for (const name of readdirSync(SCRATCH).filter((each) => each.endsWith(".part")))
      expect([name, statSync(join(SCRATCH, name)).mode & 0o777]).toEqual([name, 0o600]);
    const again = await run(exporting(file), install.variables([1], 1));
    expect(again.code).toBe(dies === "export.named" ? 2 : 0);
  }
  const fresh = await installed();
  const last = join(SCRATCH, "export.named.age");
  expect((await run(importing(last), fresh.variables([1], 1))).json).toMatchObject({ imported: true, secrets: COUNT });
  expect(await bytesOf(install.db)).toEqual(before);
  await proveAudit(install);
});

const IMPORTS: [Armed, Armed][] = [
  ["import.registered", "import.begun"],
  ["import.inserted", "import.inserted:2"],
  ["import.verified", "import.completed"],
];

test("import: the same command continues; nothing is brought twice, and all of it is verified", async () => {
  const { install, exporting, importing } = await archived();
  const file = join(SCRATCH, "whole.age");
  expect((await run(exporting(file), install.variables([1], 1))).code).toBe(0);
  const cases = IMPORTS.map(([at, again]): [string, [Armed, Armed]] => [`${at}, ${again}`, [at, again]]);
  const wrong = await inLanes(Object.fromEntries(cases), async ([at, again]) => {
    const fresh = await installed();
    const variables = fresh.variables([1], 1);
    await take({ words: importing(file), dies: at }, variables);
    await take({ words: importing(file), dies: again }, variables);
    const done = await take({ words: importing(file) }, variables);
    expect(done.json).toMatchObject({ imported: true, records: COUNT, secrets: COUNT });
    if (at === "import.verified") expect(done.json.there_before).toBe(COUNT);
    await take({ words: importing(file), exits: 3 }, variables);
    expect(await events(fresh, "secrets.imported")).toHaveLength(1);
    const reader = await library(fresh, [1], 1, "reader", TIMES);
    expect(await countRight(reader, fresh)).toBe(COUNT);
    await reader.close();
    await proveAudit(fresh);
  });
  expect(wrong).toEqual({});
});

test("import: what somebody else writes to its collections is told by name, or counted; without it the import ends", async () => {
  const { install, exporting, importing } = await archived();
  const file = join(SCRATCH, "beside.age");
  expect((await run(exporting(file), install.variables([1], 1))).code).toBe(0);
  const fresh = await installed();
  const variables = fresh.variables([1], 1);
  await take({ words: importing(file), dies: "import.inserted:2" }, variables);
  const records = fresh.db.collection<{ _id: number | string; note?: number }>("secrets");
  await records.updateOne({ _id: 5 }, { $set: { note: 1 } });
  const changed = await take({ words: importing(file), exits: 3 }, variables);
  expect(changed.stderr).toContain('the record {"$numberInt":"5"} of secrets is there already, and is not the archive');
  await records.updateOne({ _id: 5 }, { $unset: { note: 1 } });
  await records.insertOne({ _id: "more" });
  const more = await take({ words: importing(file), exits: 6 }, variables);
  expect(more.stderr).toContain(`secrets: ${COUNT + 1} records, not ${COUNT}`);
  await records.deleteOne({ _id: "more" });
  const done = await take({ words: importing(file) }, variables);
  expect(done.json).toMatchObject({ imported: true, there_before: COUNT });
});
