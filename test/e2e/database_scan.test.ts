import { expect, test } from "bun:test";
import { Code, type Document } from "mongodb";
import type { Context } from "../../src/rotation/context.ts";
import { type ScanReporter, scanDatabase } from "../../src/rotation/database_scan.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { ownReplicaSet } from "../harness/other_mongod.ts";
import { type TestInstall, until } from "../harness/program.ts";
import { kek, rotating, seededInstall } from "../harness/schedule.ts";

/** Reading the whole database: what moves meanwhile, what a resumed run relies on, and what a key's removal must not miss. */

const SECRET = "audit-secret-of-the-tests";

async function scanning(
  install: TestInstall,
): Promise<{ context: Context; notes: string[]; end: () => Promise<void> }> {
  const store = await openStore({ uri: install.uri, name: install.name }, { appName: "test" });
  const context = { store, auditor: { secret: SECRET, actor: "test", sinks: [] } } as unknown as Context;
  return { context, notes: [], end: () => closeStore(store) };
}

/** An envelope of the install's at version 1, as it is stored. */
async function envelopeOf({ db }: TestInstall): Promise<Document> {
  const one = await db.collection<Document>("secrets").findOne({});
  return (one as Document)["value"];
}

/** Many records without any envelope: enough for several answers. */
async function fill({ db }: TestInstall, name: string, megabytes: number): Promise<void> {
  const text = "x".repeat(2 ** 20 / 4);
  const records = Array.from({ length: megabytes * 4 }, (_, index) => ({ _id: index as never, text }));
  for (let at = 0; at < records.length; at += 40) await db.collection(name).insertMany(records.slice(at, at + 40));
}

test("an envelope that moves behind the reader, or into a record that was read, is seen", async () => {
  const install = await seededInstall(3);
  const value = await envelopeOf(install);
  await fill(install, "aaa", 60);
  await fill(install, "zzz", 60);
  await install.db.collection("secrets").drop();
  const { context, end } = await scanning(install);
  const archive = install.db.collection<Document>("zzz");
  await archive.insertOne({ _id: "moving" as never, value });
  let moved: Promise<unknown> | undefined;
  const reporter: ScanReporter = {
    note: () => undefined,
    // From a collection that is read last into a record that was read first, while the search runs.
    progress: () => {
      moved ??= install.db
        .collection<Document>("aaa")
        .updateOne({ _id: 0 as never }, { $set: { copy: { of: value } } })
        .then(() => archive.deleteOne({ _id: "moving" as never }));
    },
  };
  const found = await scanDatabase(context, { version: 1, restart: true }, reporter);
  await moved;
  expect(moved).toBeDefined();
  expect(found.written).toMatchObject([{ collection: "aaa", path: "copy.of", version: "1", count: 1 }]);
  await end();
});

test("a search that is resumed sees what was written while it rested", async () => {
  const install = await seededInstall(3);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  const value = { ...(await envelopeOf(install)), kek_version: 1 };
  await fill(install, "aaa", 100);
  const { context, notes, end } = await scanning(install);
  const verifications = install.db.collection<Document>("kek_verifications");
  const interrupted = new Error("interrupted");
  let saved = false;
  const looking = setInterval(async () => {
    saved ||= (await verifications.countDocuments({ _id: "scan" as never })) === 1;
  }, 20);
  const slowly: ScanReporter = {
    note: (message) => notes.push(message),
    // The reader is kept busy until a position is saved, and then stopped.
    progress: () => {
      if (saved) throw interrupted;
      const until = performance.now() + 1000;
      while (performance.now() < until);
    },
  };
  const ended = await scanDatabase(context, { version: 1, restart: true }, slowly).catch((thrown) => thrown);
  clearInterval(looking);
  expect(ended).toBe(interrupted);
  // Into a record that was read, while nobody looks.
  await install.db.collection<Document>("aaa").updateOne({ _id: 0 as never }, { $set: { late: value } });
  const quiet = { note: (message: string) => notes.push(message), progress: () => undefined };
  const again = await scanDatabase(context, { version: 1, restart: false }, quiet);
  expect([again.resumed, notes]).toEqual([expect.any(String), [expect.stringContaining("resuming the search of")]]);
  expect(again.written).toMatchObject([{ collection: "aaa", path: "late", version: "1", count: 1 }]);
  expect(await verifications.countDocuments({ _id: "scan" as never })).toBe(0);
  await end();
});

test("names with dots, members that are there twice, scopes of code, and secrets under names that are data", async () => {
  const install = await seededInstall(3);
  const value = await envelopeOf(install);
  const { context, end } = await scanning(install);
  await install.db
    .collection<Document>("odd")
    .insertMany([
      { _id: 1 as never, "a.b": value },
      { _id: 2 as never, code: new Code("x", { value }) },
      ...Array.from({ length: 1200 }, (_, index) => ({ hosts: { [`host-${index}`]: { value } } })),
    ]);
  const { places } = await scanDatabase(
    context,
    { restart: true, samples: true },
    { note: () => undefined, progress: () => undefined },
  );
  const odd = places.filter(({ collection }) => collection === "odd");
  expect(odd.length).toBeLessThanOrEqual(1001);
  expect(odd.reduce((sum, { count }) => sum + count, 0)).toBe(1202);
  expect(odd.map(({ path }) => path)).toEqual(
    expect.arrayContaining(['["a.b"]', "code.value", "hosts.host-0.value", "(more places)"]),
  );
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  const discovered = await kek(install, "verify", "--discover");
  expect([discovered.code, (await kek(install, "remove", "--version=1")).code]).toEqual([3, 3]);
  await end();
});

test("positions of another primary are not used: RecordIds are a member's own", async () => {
  const uri = await ownReplicaSet();
  const install = await seededInstall(3, {}, uri);
  const { context, notes, end } = await scanning(install);
  await fill(install, "aaa", 40);
  let down: Promise<unknown> | undefined;
  const reporter: ScanReporter = {
    note: (message) => notes.push(message),
    progress: () => {
      down ??= install.db.client
        .db("admin")
        .command({ replSetStepDown: 1, force: true })
        .catch(() => undefined);
    },
  };
  const found = await scanDatabase(context, { version: 1, restart: true }, reporter);
  await down;
  expect(found.places).toMatchObject([{ collection: "secrets", path: "value", count: 3 }]);
  expect(found.records).toBeGreaterThanOrEqual(163);
  await end();
});

test("a collection that is replaced again and again is told, and ends in a refusal that names it", async () => {
  const install = await seededInstall(3);
  await fill(install, "report", 24);
  const { context, notes, end } = await scanning(install);
  let replacing = true;
  const replaced = (async () => {
    for (let turn = 0; replacing; turn += 1) {
      const name = `report_${turn}`;
      await install.db
        .collection("report")
        .aggregate([{ $out: name }])
        .toArray();
      await install.db.collection(name).rename("report", { dropTarget: true });
    }
  })();
  const outcome = await scanDatabase(
    context,
    { version: 1, restart: true },
    { note: (message) => notes.push(message), progress: () => undefined },
  ).then(
    () => "read",
    ({ code, message }) => `${code}: ${message}`,
  );
  replacing = false;
  await replaced;
  // A machine may be fast enough to read it in between; then nothing was left out either.
  if (outcome !== "read")
    expect(outcome).toMatch(/^refused: report\w* was dropped, renamed or replaced 10 times while it was read$/);
  await until("the replacing has ended", async () => !replacing);
  await end();
});

test("--scan=registered counts a registered field also when the version is destroyed already", async () => {
  const install = await seededInstall(5);
  const before = await install.db.collection("secrets").find().toArray();
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await install.db
    .collection<Document>("kek_versions")
    .updateOne({ _id: 1 as never }, { $set: { state: "destroyed" } });
  await install.db.command({ collMod: "secrets", validator: {} });
  await install.db.collection("secrets").deleteMany({});
  await install.db.collection("secrets").insertMany(before);
  const removed = await kek(install, "remove", "--version=1", "--scan=registered");
  expect([removed.code, removed.stderr]).toEqual([
    3,
    expect.stringContaining("5 envelopes of secrets:value are at KEK version 1"),
  ]);
  const found = await kek(install, "verify", "--discover");
  expect(found.json.problems[0].hint).toContain("this host still has its key: keep it");
});

test("rotate --remove-old that must keep the key says first that the rotation is complete", async () => {
  const install = await seededInstall(5);
  const value = await envelopeOf(install);
  await install.db.collection<Document>("copies").insertOne({ value });
  const ran = await rotating(install, "--to-version=2", "--remove-old").exited;
  expect([ran.code, ran.json]).toMatchObject([
    3,
    { state: "completed", rewrapped: 5, removal: null, removal_error: { code: "refused" } },
  ]);
  expect(ran.stderr).toContain("certautopilot kek remove --version=1");
});

test("a field of copies is not registered: no rotation could rewrap them", async () => {
  const install = await seededInstall(5);
  const records = await install.db.collection<Document>("secrets").find().toArray();
  await install.db
    .collection<Document>("copies")
    .insertMany(records.map(({ value }, index) => ({ _id: (1000 + index) as never, value })));
  const added = await kek(install, "field", "add", "copies:value");
  expect([added.code, added.stderr]).toEqual([
    3,
    expect.stringContaining("none of the first 5 envelopes of copies:value opens there"),
  ]);
  const found = await kek(install, "verify", "--discover");
  expect(found.json.problems.map(({ message }: { message: string }) => message)).toEqual([
    expect.stringContaining("open at no known field"),
  ]);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
});
