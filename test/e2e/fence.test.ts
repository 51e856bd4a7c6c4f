import { expect, test } from "bun:test";
import { type LateWriter, lateWriter } from "../harness/late_writer.ts";
import { library, seed, versionsOf } from "../harness/library.ts";
import { stop, type TestInstall, until } from "../harness/program.ts";
import {
  CALM,
  events,
  evicted,
  kek,
  movedTo,
  proveAll,
  rotating,
  seededInstall,
  serveAll,
} from "../harness/schedule.ts";

/** The fence: after settling no write brings the old version back, whoever wakes and whenever it arrives. */

/** What MongoDB answers to a write: its code, or undefined when it took it. */
async function codeOf(write: Promise<unknown>): Promise<number | undefined> {
  try {
    await write;
    return undefined;
  } catch (thrown) {
    return (thrown as { code?: number }).code;
  }
}

async function validatorOf(install: TestInstall): Promise<Record<string, unknown>> {
  const [entry] = await install.db.listCollections({ name: "secrets" }).toArray();
  return (entry as { options?: { validator?: Record<string, unknown> } }).options?.validator ?? {};
}

test("writers stopped between encrypt and store, woken after settling: 121, then their retry stores v2", async () => {
  const install = await seededInstall(50, { leaseMs: 4000, evictionMs: 8000 });
  const fleet = await serveAll(install, "a", "b");
  const late: LateWriter[] = [
    await lateWriter(install, "insert", 50),
    await lateWriter(install, "update", 7),
    await lateWriter(install, "replace", 8),
  ];
  for (const writer of late) writer.kill("SIGSTOP");
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(0);
  expect((await evicted(install)).sort()).toEqual(["late-insert", "late-replace", "late-update"]);
  expect(ran.stderr).toContain("the fence is up");
  for (const writer of late) {
    expect(writer.said()).toEqual([{ attempt: 1, version: 1 }]);
    writer.go();
    writer.kill("SIGCONT");
  }
  expect(await Promise.all(late.map((writer) => writer.exited))).toEqual([0, 0, 0]);
  for (const writer of late) {
    expect(writer.said()).toEqual([
      { attempt: 1, version: 1 },
      { attempt: 1, code: 121 },
      { attempt: 2, version: 2 },
      { attempt: 2, stored: true },
    ]);
  }
  const secrets = install.db.collection("secrets");
  const stored = await secrets
    .find({ by: { $exists: true } })
    .sort({ _id: 1 })
    .toArray();
  expect(stored.map((record) => [record._id as unknown, record["by"]])).toEqual([
    [7, "late update"],
    [8, "late replace"],
    [50, "late insert"],
  ]);
  expect(await versionsOf(install)).toEqual({ "2": 51 });
  await proveAll(install, [2], 51);
  await stop(...fleet);
});

test("v1 envelopes: rewrapped when they arrive in phase 2, rejected with 121 in every form after completion", async () => {
  const install = await seededInstall(350, CALM);
  const writer = await library(install, [1, 2], 1, "writer");
  const seal = async (id: number) => ({
    value: await writer.encrypt(`secret ${id}`, { collection: "secrets", id, field: "value" }),
  });
  const arrives = { _id: 350 as never, ...(await seal(350)) };
  const tooLate = { _id: 351 as never, ...(await seal(351)) };
  const over = await seal(3);
  expect(Number(over.value.kek_version)).toBe(1);
  await writer.close();
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", "--max-rate=40", "--batch-size=10");
  await movedTo(install, 2, 50);
  const secrets = install.db.collection("secrets");
  await secrets.insertOne(arrives);
  const ran = await rotate.exited;
  expect(ran.code).toBe(0);
  expect(ran.json).toMatchObject({ rewrapped: 351, fenced: true });

  const record = await secrets.findOne({ _id: 3 as never });
  const id = { _id: 3 as never };
  expect(await codeOf(secrets.insertOne(tooLate))).toBe(121);
  expect(await codeOf(secrets.insertMany([tooLate], { ordered: false }))).toBe(121);
  expect(await codeOf(secrets.updateOne(id, { $set: over }))).toBe(121);
  expect(await codeOf(secrets.updateMany(id, { $set: { "value.kek_version": 1 } }))).toBe(121);
  expect(await codeOf(secrets.updateOne({ _id: 351 as never }, { $set: tooLate }, { upsert: true }))).toBe(121);
  expect(await codeOf(secrets.replaceOne(id, over))).toBe(121);
  expect(await codeOf(secrets.findOneAndReplace(id, over))).toBe(121);
  expect(await codeOf(secrets.bulkWrite([{ replaceOne: { filter: id, replacement: over } }]))).toBe(121);
  expect(await secrets.findOne({ _id: 3 as never })).toEqual(record as never);
  // What is no stale envelope goes through as ever.
  expect(await codeOf(secrets.updateOne(id, { $set: { owner: "somebody" } }))).toBeUndefined();
  expect(await codeOf(secrets.replaceOne(id, { value: record?.["value"] }))).toBeUndefined();
  expect(await versionsOf(install)).toEqual({ "2": 351 });
  await proveAll(install, [2], 351);
  await stop(...fleet);
});

test("a fence removed or weakened by hand is put back by a running process, and audited", async () => {
  const install = await seededInstall(20);
  const fleet = await serveAll(install, "a");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  const fence = await validatorOf(install);
  expect(JSON.stringify(fence)).toContain("value.kek_version");
  const isBack = async (repaired: number) => {
    const [entry] = await install.db.listCollections({ name: "secrets" }).toArray();
    const { validator, validationAction } = (entry as unknown as { options: Record<string, unknown> }).options;
    return (
      JSON.stringify(validator) === JSON.stringify(fence) &&
      (validationAction ?? "error") === "error" &&
      (await events(install, "fence.mended")).length === repaired
    );
  };
  await install.db.command({ collMod: "secrets", validator: {} });
  expect(await validatorOf(install)).toEqual({});
  await until("the fence is back", () => isBack(1));
  await install.db.command({ collMod: "secrets", validationAction: "warn" });
  await until("the fence rejects again", () => isBack(2));
  expect(await events(install, "fence.mended")).toMatchObject([{ collection: "secrets" }, { collection: "secrets" }]);
  expect(fleet[0].stderr).toContain("the validator of secrets had been changed: put back");
  await proveAll(install, [2], 20);
  await stop(...fleet);
});

test("--fence=off says that the records are counted twice, sets no fence, and completes", async () => {
  const install = await seededInstall(20);
  const fleet = await serveAll(install, "a");
  const ran = await rotating(install, "--to-version=2", "--fence=off").exited;
  expect(ran.code).toBe(0);
  expect(ran.stderr).toMatch(/no fence: waiting 2\.5 s before the second count/);
  expect(ran.json).toMatchObject({ fenced: false, rewrapped: 20, state: "completed" });
  const [two, three] = await install.db
    .collection("audit_log")
    .find({ event: "rotation.phase" })
    .sort({ seq: 1 })
    .toArray();
  expect(three?.["at"] - two?.["at"]).toBeGreaterThan(2500);
  expect(await validatorOf(install)).toEqual({});
  expect(await events(install, "fence.set")).toEqual([]);
  await proveAll(install, [2], 20);
  await stop(...fleet);
});

test("a field registered after the fence went up is no lasting complaint of kek verify", async () => {
  const install = await seededInstall(20);
  const fleet = await serveAll(install, "a");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  expect((await kek(install, "verify")).json).toMatchObject({ ready: true, problems: [] });
  const service = await library(install, [2], 2, "service");
  await seed(service, install, 5, "added_later");
  await service.close();
  let problems: unknown[] = [];
  const asBefore = async () => {
    problems = (await kek(install, "verify")).json.problems;
    return problems.length === 0;
  };
  await until("verify is content", asBefore).catch(() => undefined);
  await proveAll(install, [2], 20);
  await stop(...fleet);
  expect(problems).toEqual([]);
});
