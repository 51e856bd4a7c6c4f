import { expect, test } from "bun:test";
import type { Document } from "mongodb";
import { library } from "../harness/library.ts";
import { kek, seededInstall } from "../harness/schedule.ts";

/** What can hold no envelopes is refused when a field is registered, and not by a rotation a year later. */

const install = await seededInstall(3);
const writer = await library(install, [1, 2], 1, "writer");
const { db } = install;

async function encrypting(collection: string, field: string): Promise<string> {
  return await writer.encrypt("secret", { collection, id: 1, field }).then(
    () => "encrypted",
    ({ code, message }: { code: string; message: string }) => `${code}: ${message}`,
  );
}

test("views, time series and capped collections", async () => {
  await db.createCollection("view", { viewOn: "secrets", pipeline: [] });
  await db.createCollection("series", { timeseries: { timeField: "at" } });
  await db.createCollection("ring", { capped: true, size: 4096 });
  expect(await encrypting("view", "value")).toMatch(/^usage: "view:value" cannot hold envelopes: it is a view/);
  expect(await encrypting("series", "value")).toMatch(/^usage: "series:value" cannot hold .*time series/);
  expect(await encrypting("ring", "value")).toMatch(/^usage: "ring:value" cannot hold .*capped/);
  for (const name of ["view", "series", "ring"]) {
    const added = await kek(install, "field", "add", `${name}:value`);
    expect([added.code, added.stderr]).toEqual([2, expect.stringContaining("cannot hold envelopes")]);
  }
});

test("paths through arrays, by position or because a record has one", async () => {
  await db.collection<Document>("users").insertMany([{ devices: { value: 1 } }, { devices: [{ value: 1 }] }]);
  expect(await encrypting("users", "pins.0.value")).toMatch(/^usage: .*MongoDB reads "0" in its path as a position/);
  expect(await encrypting("users", "devices.value")).toMatch(/^usage: .*have an array on this path/);
  expect(await encrypting("users", "device.value")).toBe("encrypted");
  const indexes = (await db.collection("users").listIndexes().toArray()).map(({ name }) => name);
  expect(indexes).toEqual(["_id_", "device.value.kek_version_1__id_1"]);
});

test("a field that is registered already continues being encrypted, and verify names it", async () => {
  await db
    .collection<Document>("kek_fields")
    .insertOne({ _id: "users:old.0.value" as never, collection: "users", path: "old.0.value" });
  expect(await encrypting("users", "old.0.value")).toBe("encrypted");
  const verified = await kek(install, "verify", "--target=2");
  expect([verified.code, JSON.stringify(verified.json.problems)]).toEqual([
    3,
    expect.stringContaining("users:old.0.value leads through an array"),
  ]);
});

test("a view that is registered is named, and unregistered: what it shows lies elsewhere", async () => {
  const _id = "view:value" as never;
  await db.collection<Document>("kek_fields").insertOne({ _id, collection: "view", path: "value" });
  const verified = await kek(install, "verify", "--target=2");
  expect(JSON.stringify(verified.json.problems)).toContain("view:value cannot hold envelopes: it is a view");
  expect((await kek(install, "field", "remove", "view:value")).code).toBe(0);
});

test("an index that stands in the way is named when the field is registered", async () => {
  const name = "token.kek_version_1__id_1";
  await db.collection("users").createIndex({ name: 1 }, { name });
  expect(await encrypting("users", "token")).toMatch(
    /^index_unusable: the index token.kek_version_1__id_1 of users has other keys/,
  );
});

test("the list names each field once, what is wrong with it, and who registered it", async () => {
  const { json, code } = await kek(install, "field", "list");
  expect(code).toBe(0);
  expect(json.fields.map(({ field }: { field: string }) => field)).toEqual([
    "secrets:value",
    "users:device.value",
    "users:old.0.value",
  ]);
  expect(json.fields[0]).toMatchObject({
    registered_by: "seeder",
    index: "whole",
    versions: [{ version: "1", count: 3 }],
  });
  for (const word of ["", "users", ":token", "users:"]) {
    const wrong = await kek(install, "field", "add", ...(word === "" ? [] : [word]));
    expect([word, wrong.code]).toEqual([word, 2]);
  }
});
