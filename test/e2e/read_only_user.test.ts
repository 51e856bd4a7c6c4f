import { expect, test } from "bun:test";
import { guardedMongod } from "../harness/other_mongod.ts";
import { kekHex, run } from "../harness/program.ts";
import { frozenState, newestRotation, rotating, seededInstall, serveAll } from "../harness/schedule.ts";

/** What a user of MongoDB with the role `read` alone can be given: the commands that change nothing. */

const COUNT = 60;

test("a user with the role read verifies, opens every record and sees the status, and is told once what cannot be saved", async () => {
  const password = kekHex().slice(0, 20);
  const guarded = await guardedMongod("unused", password);
  const admin = guarded.root.db("admin");
  await admin.command({ grantRolesToUser: "app", roles: ["root"] });
  const install = await seededInstall(COUNT, {}, guarded.uri("app", password));
  await admin.command({ createUser: "reader", pwd: password, roles: [{ role: "read", db: install.name }] });
  const CERTAUTOPILOT_DATABASE_URI = guarded.uri("reader", password);
  const reads = async (...words: string[]) =>
    await run(words, install.variables([1, 2], 2, { CERTAUTOPILOT_DATABASE_URI }));
  const notes = (stderr: string) => stderr.match(/MongoDB does not permit writing to kek_verifications/g)?.length;
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await serveAll(install, "serving");
  const before = await frozenState(install);

  const verified = await reads("kek", "verify");
  expect([verified.code, verified.stderr]).toEqual([0, ""]);
  expect(verified.stdout).toContain("healthy: KEK version 2 is active");
  const opened = await reads("kek", "verify", "--records", "--json");
  expect([opened.code, notes(opened.stderr)]).toEqual([0, 1]);
  expect(opened.json).toMatchObject({ ready: true, records: COUNT, opened: COUNT, failed: 0, resumed: null });
  const status = await reads("kek", "status", "--json");
  expect([status.code, status.stderr]).toEqual([0, ""]);
  expect(status.json.versions).toHaveLength(2);
  expect((await reads("audit", "verify")).code).toBe(0);
  expect(await frozenState(install)).toBe(before);

  // The position that another user's run left is used, and stays.
  const { epoch } = (await newestRotation(install)) as { epoch: number };
  const counts = { records: COUNT, opened: COUNT, failed: 0, bad: [] };
  const basis = `epoch ${epoch}; versions 1 retired, 2 active`;
  const position = { started_at: new Date(), basis, done: ["secrets:value"], at: null, ...counts };
  const verifications = install.db.collection<{ _id: string }>("kek_verifications");
  await verifications.insertOne({ _id: "records", ...position });
  const resumed = await reads("kek", "verify", "--records", "--json");
  expect([resumed.code, notes(resumed.stderr)]).toEqual([0, 1]);
  expect(resumed.json).toMatchObject({ records: COUNT, opened: COUNT, resumed: expect.stringMatching(/^20/) });
  expect(await verifications.countDocuments()).toBe(1);
});
