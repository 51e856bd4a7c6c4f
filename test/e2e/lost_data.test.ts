import { expect, test } from "bun:test";
import { Double, Long } from "bson";
import type { Document } from "mongodb";
import { countRight, library, seed, versionsOf } from "../harness/library.ts";
import { run, type TestInstall } from "../harness/program.ts";
import {
  events,
  kek,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  versionStates,
} from "../harness/schedule.ts";

/** What lost secrets once: counts smaller than the truth, and decisions by a list instead of the records. */

const INDEX = "value.kek_version_1__id_1";

/** Every line of an answer's error and problems. */
function told({ json, stderr }: { json: { problems?: { message: string; hint: string }[] }; stderr: string }): string {
  return [stderr, ...(json?.problems ?? []).map(({ message, hint }) => `${message} ${hint}`)].join("\n");
}

async function fill(install: TestInstall, count: number, collection: string, field = "value"): Promise<void> {
  const writer = await library(install, [1, 2], 1, `writer of ${collection}`);
  await seed(writer, install, count, collection, field);
  await writer.close();
}

async function rotated(install: TestInstall, ...flags: string[]) {
  const ran = await rotating(install, "--to-version=2", ...flags).exited;
  return { code: ran.code, told: told(ran), json: ran.json };
}

test("an index that lacks records is not counted by, and one that stands in the way is named", async () => {
  const install = await seededInstall(30);
  const secrets = install.db.collection<Document>("secrets");
  await secrets.updateMany({ _id: { $lt: 10 } } as never, { $set: { active: true } });
  await secrets.createIndex(
    { "value.kek_version": 1, _id: 1 },
    { name: "mine", partialFilterExpression: { active: true } },
  );
  await install.db.command({ collMod: "secrets", index: { name: INDEX, hidden: true } });

  const remedy = `db.getSiblingDB("${install.name}").runCommand({collMod: "secrets", index: {name: "${INDEX}", hidden: false}})`;
  for (const argv of [["verify"], ["verify", "--target=2"], ["rotate", "--to-version=2", "--dry-run"]]) {
    const answer = await kek(install, ...argv);
    expect([answer.code, told(answer)]).toEqual([3, expect.stringContaining(remedy)]);
  }
  const status = await kek(install, "status");
  expect(status.json.version_counts).toEqual([{ field: "secrets:value", version: "1", count: 30 }]);
  expect(JSON.stringify(status.json.health.findings)).toContain("is hidden");
  expect(status.stdout).not.toContain("NaN");

  await install.db.command({ collMod: "secrets", index: { name: INDEX, hidden: false } });
  expect(await rotated(install)).toMatchObject({ code: 0, json: { rewrapped: 30 } });
  const removed = await kek(install, "remove", "--version=1");
  expect([removed.code, removed.stderr]).toEqual([0, expect.any(String)]);
  await proveAll(install, [2], 30);
});

test("indexes of our name with another definition, and collections with a collation", async () => {
  const install = await seededInstall(12);
  const secrets = install.db.collection("secrets");
  const odd: [string, object, object][] = [
    ["is partial", { "value.kek_version": 1, _id: 1 }, { partialFilterExpression: { active: true } }],
    ["is sparse", { "value.kek_version": 1, _id: 1 }, { sparse: true }],
    ["has a collation", { "value.kek_version": 1, _id: 1 }, { collation: { locale: "de" } }],
    ["has other keys", { name: 1 }, {}],
  ];
  for (const [why, keys, options] of odd) {
    await secrets.dropIndex(INDEX);
    await secrets.createIndex(keys as never, { name: INDEX, ...options });
    const verified = await kek(install, "verify", "--target=2");
    expect([verified.code, told(verified)]).toEqual([
      3,
      expect.stringContaining(`the index ${INDEX} of secrets ${why}`),
    ]);
    expect((await kek(install, "status")).json.version_counts).toEqual([
      { field: "secrets:value", version: "1", count: 12 },
    ]);
  }
  await secrets.dropIndex(INDEX);
  // The same under another name is as good.
  await secrets.createIndex({ "value.kek_version": 1, _id: 1 }, { name: "theirs" });
  await install.db.createCollection("words", { collation: { locale: "de", strength: 1 } });
  await fill(install, 8, "words");
  expect(await rotated(install)).toMatchObject({ code: 0, json: { rewrapped: 20 } });
  expect(await versionsOf(install, "words")).toEqual({ "2": 8 });
});

test("an index that is hidden in phase 2 is waited for, with its name and the command that repairs it", async () => {
  const install = await seededInstall(40);
  const rotation = rotating(install, "--to-version=2", ...SLOWLY);
  await rotation.says("phase 2: re-wrap");
  await install.db.command({ collMod: "secrets", index: { name: INDEX, hidden: true } });
  await rotation.says(/waiting: the index value\.kek_version_1__id_1 of secrets is hidden.*hidden: false/);
  await install.db.command({ collMod: "secrets", index: { name: INDEX, hidden: false } });
  expect((await rotation.exited).code).toBe(0);
  await proveAll(install, [2], 40);
});

test("without kek_fields nothing is rotated or destroyed while envelopes are there", async () => {
  const install = await seededInstall(30);
  await fill(install, 10, "tokens");
  await install.db.collection("kek_fields").deleteMany({});
  for (const argv of [["verify"], ["verify", "--target=2"], ["rotate", "--to-version=2"]]) {
    const answer = await kek(install, ...argv);
    expect([answer.code, told(answer)]).toEqual([
      3,
      expect.stringContaining("certautopilot kek field add secrets:value"),
    ]);
  }
  // Nor when no index tells of them either.
  await install.db.collection("secrets").dropIndex(INDEX);
  await install.db.collection("tokens").dropIndex(INDEX);
  const ran = await rotated(install, "--remove-old");
  expect(ran.code).toBe(6);
  expect(ran.told).toContain(
    "version 1 is not retired: 30 envelopes of secrets:value, 10 envelopes of tokens:value are",
  );
  expect(await versionStates(install)).toMatchObject({ "1": "active", "2": "staged" });

  const found = await kek(install, "verify", "--discover");
  expect([found.code, found.json.places]).toMatchObject([
    3,
    [
      { collection: "secrets", path: "value", version: "1", count: 30, registered: false, sealed_for: "secrets:value" },
      { collection: "tokens", path: "value", version: "1", count: 10, registered: false, sealed_for: "tokens:value" },
    ],
  ]);
  for (const { hint } of found.json.problems as { hint: string }[]) {
    const [program, ...words] = hint.split(" ");
    expect(program).toBe("certautopilot");
    expect((await run([...words, "--json"], install.variables([1, 2], 2))).code).toBe(0);
  }
  expect((await kek(install, "verify", "--discover")).code).toBe(0);
  expect(await events(install, "field.added")).toEqual([{ field: "secrets:value" }, { field: "tokens:value" }]);
  expect(await rotated(install)).toMatchObject({ code: 0, json: { rewrapped: 40 } });
  expect((await kek(install, "remove", "--version=1")).code).toBe(0);
  const reader = await library(install, [2], 2, "reader");
  expect([await countRight(reader, install), await countRight(reader, install, "tokens")]).toEqual([30, 10]);
});

test("a collection that is renamed in phase 2 keeps the rotation from settling, with or without its index", async () => {
  for (const dropsIndex of [false, true]) {
    const install = await seededInstall(40);
    await fill(install, 10, "tokens");
    const rotation = rotating(install, "--to-version=2", ...SLOWLY);
    await rotation.says("phase 2: re-wrap");
    expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
    await rotation.exited;
    await install.db.collection("secrets").rename("customers");
    if (dropsIndex) await install.db.collection("customers").dropIndex(INDEX);

    const again = await rotated(install);
    expect([again.code, again.told]).toEqual([
      6,
      expect.stringMatching(/version 1 is not retired: \d+ envelopes of customers:value/),
    ]);
    expect(await newestRotation(install)).toMatchObject({ phase: 2, state: "running" });
    const names = (await install.db.listCollections().toArray()).map(({ name }) => name);
    expect(names).not.toContain("secrets");
    const removed = await kek(install, "remove", "--version=1");
    expect(removed.code).toBe(3);
    const found = await kek(install, "verify", "--discover");
    expect(told(found)).toContain('.getCollection("customers").renameCollection("secrets")');

    await install.db.collection("customers").rename("secrets");
    expect((await rotated(install)).code).toBe(0);
    expect((await kek(install, "remove", "--version=1")).code).toBe(0);
    await proveAll(install, [2], 40);
  }
});

test("a collection that is dropped, or emptied, on purpose stops no rotation: every other one is read first", async () => {
  const install = await seededInstall(20);
  for (const name of ["dropped", "emptied"]) await fill(install, 10, name);
  const rotation = rotating(install, "--to-version=2", ...SLOWLY);
  await rotation.says("phase 2: re-wrap");
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  await rotation.exited;
  await install.db.collection("dropped").drop();
  await install.db.collection("emptied").deleteMany({});
  const again = await rotated(install);
  expect(again.told).toContain("no envelope of version 1 is left in any collection");
  expect(again.code).toBe(0);
  expect((await kek(install, "field", "remove", "dropped:value")).code).toBe(0);
  const kept = await kek(install, "field", "remove", "secrets:value");
  expect([kept.code, kept.stderr]).toEqual([3, expect.stringContaining("secrets:value holds 20 envelopes")]);
  const fields = await kek(install, "field", "list");
  expect(fields.json.fields.map(({ field }: { field: string }) => field)).toEqual(["emptied:value", "secrets:value"]);
  expect(await events(install, "field.removed")).toEqual([{ field: "dropped:value" }]);
});

test("envelopes where nobody registered them keep their key: another path, another collection, an array, a record", async () => {
  const install = await seededInstall(20);
  const secrets = install.db.collection<Document>("secrets");
  const one = (await secrets.findOne({ _id: 0 } as never)) as Document;
  await secrets.updateOne({ _id: 0 } as never, { $set: { backup: { value: one["value"] } } });
  await install.db.collection<Document>("archive").insertOne({ _id: 0 as never, value: one["value"] });
  await install.db.collection<Document>("devices").insertOne({ _id: 1 as never, list: [{ value: one["value"] }] });
  await install.db.collection<Document>("bare").insertOne({ ...one["value"], _id: 7 as never });
  await install.db
    .collection<Document>("wide")
    .insertMany(
      [Long.fromNumber(1), new Double(1)].map((kek_version) => ({ value: { ...one["value"], kek_version } })),
    );
  expect((await rotated(install)).code).toBe(0);
  for (const argv of [
    ["remove", "--version=1"],
    ["remove", "--version=1", "--dry-run"],
  ]) {
    const refused = await kek(install, ...argv);
    expect([refused.code, refused.stderr]).toEqual([3, expect.stringContaining("1 envelope of secrets:backup.value")]);
    expect(refused.stderr).toContain("1 envelope of bare (whole records)");
    expect(refused.stderr).toContain("1 envelope of devices:list[].value");
  }
  expect((await versionStates(install))["1"]).toBe("retired");
  const found = await kek(install, "verify", "--discover");
  expect(
    found.json.places.map((place: Document) => [
      place["collection"],
      place["path"],
      place["version"],
      place["sealed_for"],
    ]),
  ).toEqual([
    ["archive", "value", "1", "secrets:value"],
    ["bare", "", "1", null],
    ["devices", "list[].value", "1", null],
    ["secrets", "backup.value", "1", "secrets:value"],
    ["secrets", "value", "2", "secrets:value"],
    ["wide", "value", "1 (double)", null],
    ["wide", "value", "1 (long)", null],
  ]);
  expect(found.json.problems).toHaveLength(6);

  // What the known fields hold is all that this looks at: it says so.
  const blind = await kek(install, "remove", "--version=1", "--scan=registered", "--dry-run");
  expect([blind.code, blind.stderr]).toEqual([0, expect.stringContaining("are not seen, and are lost with the key")]);
  for (const name of ["archive", "devices", "bare", "wide"]) await install.db.collection(name).drop();
  await secrets.updateOne({ _id: 0 } as never, { $unset: { backup: true } });
  const dry = await kek(install, "remove", "--version=1", "--dry-run");
  expect([dry.code, dry.stdout]).toEqual([0, expect.stringContaining('"dry_run": true')]);
  expect((await versionStates(install))["1"]).toBe("retired");
  const removed = await kek(install, "remove", "--version=1");
  expect([removed.code, removed.json]).toMatchObject([
    0,
    { outcome: "destroyed", scanned: { records: expect.any(Number) } },
  ]);
  await proveAll(install, [2], 20);
});

test("verify names a version that is stored as another type of number, and no rotation leaves it behind", async () => {
  const install = await seededInstall(10);
  const secrets = install.db.collection<Document>("secrets");
  await secrets.updateOne({ _id: 3 } as never, { $set: { "value.kek_version": new Double(1) } });
  await secrets.updateOne({ _id: 4 } as never, { $set: { "value.kek_version": Long.fromNumber(1) } });
  const verified = await kek(install, "verify");
  expect(told(verified)).toContain("1 envelope of secrets:value is at version 1 (double)");
  expect(told(verified)).toContain("1 envelope of secrets:value is at version 1 (long)");
  expect((await kek(install, "verify", "--target=2")).code).toBe(3);
  expect((await rotated(install)).code).toBe(3);
});

test("a scan that was interrupted is resumed, and what was saved is not believed when it was changed", async () => {
  const install = await seededInstall(20);
  expect((await rotated(install)).code).toBe(0);
  // As an interrupted scan leaves it, but by somebody who does not have the audit secret.
  const forged = {
    started_at: new Date(),
    basis: "epoch 4; versions 1 retired, 2 active",
    collections: [],
    watch: { version: 1, token: { _data: "00" }, written: [] },
    mac: "0".repeat(64),
  };
  await install.db.collection<Document>("kek_verifications").insertOne({ _id: "scan" as never, ...forged });
  const removed = await kek(install, "remove", "--version=1");
  expect(removed.stderr).toContain("it was saved under another audit secret, or changed");
  expect(removed.code).toBe(0);
});
