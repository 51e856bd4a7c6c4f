import { expect, test } from "bun:test";
import { countRight, library, versionsOf } from "../harness/library.ts";
import { until } from "../harness/program.ts";
import { kek, rotating, seededInstall } from "../harness/schedule.ts";

/** What somebody has deleted of what the install stands on: the list of fields, a field's index. */

test("a field deleted from the list is registered again by who has written it, before a rotation counts", async () => {
  const install = await seededInstall(20);
  const writer = await library(install, [1, 2], 2, "writer");
  const write = async (id: number) => {
    const place = { collection: "secrets", id, field: "value" };
    const value = await writer.encrypt(`secret ${id}`, place);
    await install.db.collection<{ _id: number }>("secrets").replaceOne({ _id: id }, { value }, { upsert: true });
  };
  await write(20);
  const fields = install.db.collection<{ _id: string }>("kek_fields");
  expect((await fields.deleteMany({})).deletedCount).toBe(1);
  await write(21);
  // At once, a rotation does not begin: the field's index says that one is missing.
  const early = await rotating(install, "--to-version=2").exited;
  expect([early.code, early.stderr]).toEqual([3, expect.stringContaining("certautopilot kek field add secrets:value")]);
  await until("the field is registered again", async () => (await fields.countDocuments()) === 1);
  const ran = await rotating(install, "--to-version=2").exited;
  expect({ code: ran.code, stderr: ran.stderr }).toMatchObject({ code: 0 });
  expect(await versionsOf(install)).toEqual({ "2": 22 });
  expect(await countRight(writer, install)).toBe(22);
  expect(await fields.find().toArray()).toMatchObject([{ _id: "secrets:value", registered_by: "writer" }]);
});

test("without a field's index everything works, and a rotation makes it again", async () => {
  const install = await seededInstall(20);
  const secrets = install.db.collection("secrets");
  const index = "value.kek_version_1__id_1";
  await secrets.dropIndex(index);
  const verified = await kek(install, "verify");
  expect(verified.json).toMatchObject({
    version_counts: [{ version: "1", count: 20 }],
    problems: [{ code: "silent" }],
  });
  expect((await kek(install, "status")).code).toBe(0);
  expect(await secrets.indexExists(index)).toBe(false);
  const ran = await rotating(install, "--to-version=2").exited;
  expect({ code: ran.code, stderr: ran.stderr }).toMatchObject({ code: 0 });
  expect(await versionsOf(install)).toEqual({ "2": 20 });
  expect(await secrets.indexExists(index)).toBe(true);
});
