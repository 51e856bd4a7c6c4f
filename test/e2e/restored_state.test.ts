import { expect, test } from "bun:test";
import type { Document } from "mongodb";
import { KekError } from "../../src/errors/errors.ts";
import type { FieldEncryption } from "../../src/index.ts";
import { library, seed, versionsOf } from "../harness/library.ts";
import { stop, type TestInstall, until } from "../harness/program.ts";
import { events, newestRotation, proveAll, rotating, seededInstall, serveAll } from "../harness/schedule.ts";

/** The kek_ collections restored alone, from a copy older than the validators, which reject the version that is active again. */

/** Processes look at validators once in a lease: long enough for a busy machine, and no longer. */
const UNHURRIED = { leaseMs: 4000, evictionMs: 8000 };
const KEPT = ["kek_install", "kek_versions", "kek_fields", "kek_rotations"];

async function copyOf(install: TestInstall, names: string[]): Promise<Map<string, Document[]>> {
  const read = async (name: string) =>
    [name, await install.db.collection(name, RAW).find().toArray()] as [string, Document[]];
  return new Map(await Promise.all(names.map(read)));
}

/** As `mongorestore --bypassDocumentValidation` does: documents, and nothing of the collections' options. */
async function restore(install: TestInstall, copy: Map<string, Document[]>): Promise<void> {
  for (const [name, documents] of copy) {
    const collection = install.db.collection(name, RAW);
    await collection.deleteMany({});
    if (documents.length > 0) await collection.insertMany(documents, { bypassDocumentValidation: true });
  }
}

const RAW = { promoteValues: false } as never;

async function write(
  service: FieldEncryption,
  install: TestInstall,
  id: number,
  collection = "secrets",
): Promise<unknown> {
  const records = install.db.collection<{ _id: number; value: unknown }>(collection);
  return await service
    .write(async () => {
      const value = await service.encrypt(`secret ${id}`, { collection, id, field: "value" });
      await records.replaceOne({ _id: id }, { value }, { upsert: true });
    })
    .catch((thrown) => thrown);
}

const validatorOf = async (install: TestInstall, name: string) =>
  ((await install.db.listCollections({ name }).toArray())[0] as { options?: Document } | undefined)?.options;

for (const records of ["are restored too", "stay at version 2"]) {
  test(`restored to before the first rotation, records ${records}: named with the command that helps, nothing is changed`, async () => {
    const install = await seededInstall(20, UNHURRIED);
    const own = { value: { $exists: true }, note: { $ne: 'a "quoted" word' } };
    await install.db.command({ collMod: "secrets", validator: own });
    const copy = await copyOf(install, [...KEPT, ...(records === "are restored too" ? ["secrets"] : [])]);
    expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
    const fenced = await validatorOf(install, "secrets");
    await restore(install, copy);

    const [serve] = await serveAll(install, "a");
    await serve.says("MongoDB rejects KEK version 1 in secrets, and that is the version that is written now");
    const [, command = ""] = /run in mongosh: (db\.getSiblingDB.+)$/m.exec(serve.stderr) ?? [];
    const service = await library(install, [1, 2], 1, "service");
    const thrown = (await write(service, install, 20)) as KekError;
    expect(thrown).toBeInstanceOf(KekError);
    expect([thrown.code, thrown.message]).toEqual([
      "write_rejected",
      expect.stringMatching(/^MongoDB rejects KEK version 1 in secrets, and that is the version that is written now/),
    ]);
    expect(thrown.hint).toContain(`run in mongosh: ${command}`);
    expect(await validatorOf(install, "secrets")).toEqual(fenced as Document);
    expect(await events(install, "fence.mended")).toEqual([]);

    await runInShell(install, command);
    expect((await validatorOf(install, "secrets"))?.["validator"]).toEqual(own);
    expect(await write(service, install, 20)).toBeUndefined();
    await service.close();
    if (records === "stay at version 2") expect(await versionsOf(install)).toEqual({ "1": 1, "2": 20 });
    // The way out is the same rotation again: what is at version 2 already is what it would bring there.
    expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
    await proveAll(install, [2], 21);
    await stop(serve);
  });
}

test("restored to before the last rotation: a process brings every validator in line with the record", async () => {
  const install = await seededInstall(20, UNHURRIED);
  const rotate = async (...argv: string[]) => expect((await rotating(install, ...argv).exited).code).toBe(0);
  await rotate("--to-version=2");
  await rotate("--to-version=1", "--from-version=2");
  const copy = await copyOf(install, [...KEPT, "secrets"]);
  // A collection that the copy does not know.
  const before = await library(install, [1, 2], 1, "before");
  await seed(before, install, 5, "later");
  await before.close();
  const later = await copyOf(install, ["later"]);
  await rotate("--to-version=2", "--from-version=1");
  const rejectsOne = async (name: string) => JSON.stringify(await validatorOf(install, name)).includes("[1]");
  expect([await rejectsOne("secrets"), await rejectsOne("later")]).toEqual([true, true]);
  await restore(install, new Map([...copy, ...later]));

  const [serve] = await serveAll(install, "a");
  const service = await library(install, [1, 2], 1, "service");
  await until("secrets accepts version 1", async () => (await write(service, install, 20)) === undefined);
  await until("later accepts version 1", async () => (await write(service, install, 5, "later")) === undefined);
  await service.close();
  expect(await newestRotation(install)).toMatchObject({ from: 2, to: 1, fence: { versions: [2] } });
  expect(await events(install, "fence.mended")).toContainEqual({ rotation: 2, collection: "secrets" });
  expect(serve.stderr).toContain("the validator of secrets had been changed: put back");
  await rotate("--to-version=2", "--from-version=1");
  expect(await versionsOf(install, "later")).toEqual({ "2": 6 });
  await proveAll(install, [2], 21);
  await stop(serve);
});

test("a rotation to a version that only the validators reject, and no record names, lifts that fence first", async () => {
  const install = await seededInstall(20, UNHURRIED);
  const copy = await copyOf(install, KEPT);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  expect((await rotating(install, "--to-version=1", "--from-version=2").exited).code).toBe(0);
  await restore(install, copy);
  expect(JSON.stringify(await validatorOf(install, "secrets"))).toContain("[2]");
  const ran = await rotating(install, "--to-version=2").exited;
  expect({ code: ran.code, json: ran.json, stderr: ran.stderr }).toMatchObject({ code: 0, json: { rewrapped: 20 } });
  await proveAll(install, [2], 20);
});

// ---------------------------------------------------------------------------------------------------------------------

/** What mongosh would make of the command: `db`, and EJSON as it has it. */
async function runInShell(install: TestInstall, command: string): Promise<void> {
  const { EJSON } = await import("bson");
  const db = {
    getSiblingDB(name: string) {
      expect(name).toBe(install.name);
      return { runCommand: (words: Document) => install.db.command(words) };
    },
  };
  await new Function("db", "EJSON", `return ${command};`)(db, EJSON);
}
