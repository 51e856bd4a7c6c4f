import { expect, test } from "bun:test";
import { EJSON } from "bson";
import type { Document } from "mongodb";
import { countRight, library, seed } from "../harness/library.ts";
import { stop, type TestInstall, testInstall } from "../harness/program.ts";
import { events, kek, proveAudit, rotating, serveAll } from "../harness/schedule.ts";

/** The fence lives beside a collection's own validator, and leaves it as it was. */

const RULES = {
  $jsonSchema: {
    required: ["_id"],
    properties: { owner: { bsonType: "string" }, 10: { bsonType: "long", minimum: 1.5 } },
  },
};
const OWN: Record<string, Document> = {
  none: {},
  strict: { validator: RULES, validationLevel: "strict", validationAction: "error" },
  moderate: { validator: RULES, validationLevel: "moderate" },
  warned: { validator: RULES, validationAction: "warn" },
  off: { validator: RULES, validationLevel: "off" },
  anded: { validator: { $and: [{ owner: { $not: { $type: "int" } } }, { shape: { $ne: "bad" } }] } },
};
const COUNT = 20;

/** A collection's validator settings as MongoDB understands them: what is absent is the default. */
async function settings(install: TestInstall): Promise<Record<string, string>> {
  const listed = await install.db.listCollections({ name: { $in: [...Object.keys(OWN), "crooked"] } }).toArray();
  return Object.fromEntries(
    listed.map((entry) => {
      const { validator = {}, validationLevel = "strict", validationAction = "error" } = (entry as Document)["options"];
      return [entry.name, EJSON.stringify({ validator, validationLevel, validationAction }, { relaxed: false })];
    }),
  );
}

async function rejects(install: TestInstall, collection: string, document: Document): Promise<boolean> {
  try {
    await install.db.collection(collection).insertOne(document);
  } catch (thrown) {
    expect((thrown as { code: number }).code).toBe(121);
    return true;
  }
  await install.db.collection(collection).deleteOne({ _id: document._id });
  return false;
}

test("own validators: merged with the fence, restored exactly by a rotation back, and the operator's own from then on", async () => {
  const install = await testInstall();
  for (const [name, options] of Object.entries(OWN)) await install.db.createCollection(name, options);
  const writer = await library(install, [1, 2], 1, "writer");
  const stale: Record<string, Document> = {};
  for (const name of Object.keys(OWN)) {
    await seed(writer, install, COUNT, name);
    const value = await writer.encrypt("late", { collection: name, id: 99, field: "value" });
    stale[name] = { _id: 99, value };
  }
  await writer.close();
  const before = await settings(install);
  const breaksRules = { _id: 98, owner: 5 };
  const rejected = async () =>
    Object.fromEntries(
      await Promise.all(Object.keys(OWN).map(async (name) => [name, await rejects(install, name, breaksRules)])),
    );
  const ownVerdicts = await rejected();
  expect(ownVerdicts).toEqual({ none: false, strict: true, moderate: true, warned: false, off: false, anded: true });
  const fleet = await serveAll(install, "a");

  const there = await rotating(install, "--to-version=2").exited;
  expect(there.code).toBe(0);
  expect(there.json).toMatchObject({ rewrapped: COUNT * Object.keys(OWN).length, fenced: true });
  for (const name of Object.keys(OWN)) {
    expect([name, await rejects(install, name, stale[name] as Document)]).toEqual([name, true]);
    expect((await settings(install))[name]).not.toBe(before[name] as string);
  }
  // The collections' own rules mean what they meant.
  expect(await rejected()).toEqual(ownVerdicts);

  // Lifted for the reverse rotation, and with --fence=off no new one takes its place.
  const back = await rotating(install, "--to-version=1", "--from-version=2", "--fence=off").exited;
  expect(back.code).toBe(0);
  expect(back.stderr).toContain("the fence against version 1 is lifted");
  expect(await settings(install)).toEqual(before);
  expect(await rejected()).toEqual(ownVerdicts);
  expect(await events(install, "fence.lifted")).toMatchObject([{ versions: [1] }]);
  expect(await rejects(install, "none", stale["none"] as Document)).toBe(false);
  const reader = await library(install, [1], 1, "reader");
  for (const name of Object.keys(OWN)) expect(await countRight(reader, install, name)).toBe(COUNT);
  await reader.close();
  await proveAudit(install);

  // With no fence up, validators are the operator's own business again. Before, a member may have been there first with what
  // the coordinator had recorded and not yet done.
  const repaired = await events(install, "fence.mended");
  await install.db.command({ collMod: "strict", validator: { owner: { $ne: "nobody" } } });
  const changed = await settings(install);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  expect(await settings(install)).toEqual(changed);
  expect(await events(install, "fence.mended")).toEqual(repaired);
  await stop(...fleet);
});

test("moderate rules that documents break already are left alone: said by name, and the records are counted twice", async () => {
  const install = await testInstall();
  const writer = await library(install, [1, 2], 1, "writer");
  await seed(writer, install, COUNT, "crooked");
  await seed(writer, install, COUNT, "none");
  await writer.close();
  await install.db.collection("crooked").updateOne({ _id: 3 as never }, { $set: { owner: 5 } });
  await install.db.command({ collMod: "crooked", validator: RULES, validationLevel: "moderate" });
  const before = await settings(install);
  const fleet = await serveAll(install, "a");
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(0);
  expect(ran.stderr).toMatch(/fence could not be set on crooked .*twice/);
  expect(ran.json).toMatchObject({ fenced: false, rewrapped: 2 * COUNT });
  expect((await settings(install))["crooked"]).toBe(before["crooked"] as string);
  expect((await settings(install))["none"]).toContain("value.kek_version");
  const reader = await library(install, [2], 2, "reader");
  expect(await countRight(reader, install, "crooked")).toBe(COUNT);
  await reader.close();
  await proveAudit(install);
  await stop(...fleet);
});

test("a cancel lifts a fence that is up already, with a dead coordinator too, and v1 can be written again", async () => {
  const install = await testInstall();
  const writer = await library(install, [1, 2], 1, "writer");
  await seed(writer, install, COUNT, "crooked");
  await seed(writer, install, COUNT, "strict");
  const place = { collection: "strict", id: 99, field: "value" };
  const stale = { _id: 99, value: await writer.encrypt("late", place) };
  await writer.close();
  await install.db.collection("crooked").updateOne({ _id: 3 as never }, { $set: { owner: 5 } });
  await install.db.command({ collMod: "crooked", validator: RULES, validationLevel: "moderate" });
  await install.db.command({ collMod: "strict", validator: RULES });
  const before = await settings(install);
  const fleet = await serveAll(install, "a");
  // One collection cannot be fenced, so the coordinator waits between two censuses, with the other's fence up.
  const rotate = rotating(install, "--to-version=2");
  await rotate.says("before the second count");
  rotate.kill("SIGKILL");
  await rotate.exited;
  expect(await rejects(install, "strict", stale)).toBe(true);
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect(await settings(install)).toEqual(before);
  expect(await rejects(install, "strict", stale)).toBe(false);
  expect(await events(install, "fence.lifted")).toMatchObject([{ versions: [1] }]);

  const back = await rotating(install, "--to-version=1", "--from-version=2", "--fence=off").exited;
  expect(back.code).toBe(0);
  expect(back.json.rewrapped).toBe(2 * COUNT);
  expect(await settings(install)).toEqual(before);
  const reader = await library(install, [1], 1, "reader");
  for (const name of ["crooked", "strict"]) expect(await countRight(reader, install, name)).toBe(COUNT);
  await reader.close();
  await proveAudit(install);
  await stop(...fleet);
});
