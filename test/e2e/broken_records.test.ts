import { expect, test } from "bun:test";
import { Binary, Decimal128, type Document, Double, Int32, Long, MinKey, ObjectId, Timestamp, UUID } from "mongodb";
import { library, versionsOf } from "../harness/library.ts";
import { run, stop, type TestInstall, testInstall } from "../harness/program.ts";
import {
  CALM,
  events,
  kek,
  newestRotation,
  proveAll,
  proveAudit,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
  versionStates,
} from "../harness/schedule.ts";

/** Records that cannot be rewrapped: named, skipped, and nothing settles over them. Nasty _ids: no trouble at all. */

const secretsOf = (install: TestInstall) =>
  install.db.collection<{ _id: number; value: Document }>("secrets", { promoteValues: false } as never);

/** Breaks some records; each breakage says what it sets, from the intact envelope and its neighbour's. */
const BREAKAGES: Record<number, (value: Document, neighbour: Document) => Document> = {
  3: (value) => {
    const bytes = Buffer.from(value["wrapped_dek"].buffer);
    bytes[30] = (bytes[30] ?? 0) ^ 1;
    return { ...value, wrapped_dek: new Binary(bytes, 0) };
  },
  7: (value) => ({ ...value, wrapped_dek: new Binary(value["wrapped_dek"].buffer.subarray(0, 59), 0) }),
  11: (value) => ({ ...value, wrapped_dek: value["wrapped_dek"].toString("base64") }),
  13: (value) => ({ ...value, wrapped_dek: new Binary(value["wrapped_dek"].buffer, 4) }),
  17: (value) => ({ ...value, kek_version: Long.fromNumber(1) }),
  19: (value) => ({ ...value, kek_version: new Double(1) }),
  23: (_value, neighbour) => neighbour,
  29: ({ wrapped_dek: _gone, ...rest }) => rest,
};
const BROKEN = Object.keys(BREAKAGES).map(Number);

async function breakRecords(install: TestInstall, ids: number[]): Promise<Map<number, Document>> {
  const intact = new Map<number, Document>();
  for (const id of ids) {
    const record = await secretsOf(install).findOne({ _id: id });
    const neighbour = await secretsOf(install).findOne({ _id: id + 1 });
    intact.set(id, record?.value as Document);
    const value = BREAKAGES[id]?.(record?.value as Document, neighbour?.value as Document) as Document;
    await secretsOf(install).replaceOne({ _id: id }, { value });
  }
  return intact;
}

test("broken wraps: each named and skipped, exit 6, nothing settles; repaired, the same command completes", async () => {
  const install = await seededInstall(60, CALM);
  const intact = await breakRecords(install, BROKEN);
  const before = await secretsOf(install)
    .find({ _id: { $in: BROKEN } })
    .sort({ _id: 1 })
    .toArray();
  const fleet = await serveAll(install, "a", "b");
  // Versions of another type of number are seen before a rotation begins; these are written when it has begun.
  const early = await rotating(install, "--to-version=2").exited;
  expect([early.code, early.stderr]).toEqual([
    3,
    expect.stringMatching(/secrets:value is at version 1 \((long|double)\)/),
  ]);
  for (const id of [17, 19]) await secretsOf(install).replaceOne({ _id: id }, { value: intact.get(id) as Document });
  const rotation = rotating(install, "--to-version=2", ...SLOWLY);
  await rotation.says("phase 1: announce");
  await breakRecords(install, [17, 19]);
  const ran = await rotation.exited;
  expect(ran.code).toBe(6);
  expect(ran.stderr).toMatch(/^error: 8 .*records cannot be rewrapped.*secrets:value.*\nhint: .+$/m);
  for (const id of BROKEN) {
    expect(ran.stderr).toMatch(
      new RegExp(`record \\{"\\$numberInt":"${id}"\\} of secrets:value cannot be rewrapped: .+`),
    );
  }
  // Skipped as they are, with everything else moved.
  expect(
    await secretsOf(install)
      .find({ _id: { $in: BROKEN } })
      .sort({ _id: 1 })
      .toArray(),
  ).toEqual(before);
  expect(await versionsOf(install)).toEqual({ "1": 8, "2": 52 });
  // Nothing settled: v1 stays active and readable, there is no fence, and nobody coordinates.
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  const open = await newestRotation(install);
  expect(open).toMatchObject({ phase: 2, state: "running", open: true, fence: { versions: [] } });
  expect(open["failed"]).toHaveLength(8);
  expect(open["fields"]).toMatchObject([{ field: "secrets:value", done: 52, remaining: 8, failed: 8 }]);
  const audited = await events(install, "record.failed");
  expect(audited.map((data) => [data["field"], data["id"]]).sort()).toEqual(
    BROKEN.map((id) => ["secrets:value", `{"$numberInt":"${id}"}`]).sort(),
  );
  expect(audited.every((data) => String(data["reason"]).length > 10)).toBe(true);
  const reasons = new Map(audited.map((data) => [data["id"], data["reason"]]));
  expect(reasons.get('{"$numberInt":"17"}')).toContain("its kek_version is an int64, not an int32");
  expect(reasons.get('{"$numberInt":"19"}')).toContain("its kek_version is a double, not an int32");
  const status = (await kek(install, "status")).json;
  expect(status.rotation).toMatchObject({ coordinator: null, phase: 2 });
  expect(status.rotation.failed).toHaveLength(8);

  // Half of them repaired: the rest is named again.
  for (const id of BROKEN.slice(0, 4)) {
    await secretsOf(install).replaceOne({ _id: id }, { value: intact.get(id) as Document });
  }
  const again = await rotating(install, "--to-version=2").exited;
  expect(again.code).toBe(6);
  expect(again.json.error.message).toMatch(/^4 .*records cannot be rewrapped/);
  expect((await newestRotation(install))["failed"]).toHaveLength(4);
  for (const id of BROKEN.slice(4)) {
    await secretsOf(install).replaceOne({ _id: id }, { value: intact.get(id) as Document });
  }
  const repaired = await rotating(install, "--to-version=2").exited;
  expect(repaired.code).toBe(0);
  expect(repaired.json).toMatchObject({ rotation: 1, state: "completed", rewrapped: 4 });
  expect((await newestRotation(install))["failed"]).toEqual([]);
  await proveAll(install, [2], 60);
  await stop(...fleet);
});

test("a kek_version that is text is not passed over: refused or named, and v1 is not retired", async () => {
  const install = await seededInstall(20, CALM);
  const fleet = await serveAll(install, "a");
  const intact = await secretsOf(install).findOne({ _id: 5 });
  await secretsOf(install).updateOne({ _id: 5 }, { $set: { "value.kek_version": "1" } });
  const verified = await kek(install, "verify");
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code === 3 || ran.code === 6).toBe(true);
  expect(ran.stderr).toContain("secrets:value");
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  // Whatever else verify has to say: it names the field.
  expect(verified.code).toBe(3);
  expect(JSON.stringify(verified.json.problems)).toContain("secrets:value");
  await secretsOf(install).replaceOne({ _id: 5 }, { value: intact?.value as Document });
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await proveAll(install, [2], 20);
  await stop(...fleet);
});

/** As a developer names them to the library: of the very BSON type that is stored. */
const IDS: unknown[] = [
  new ObjectId(),
  "text é🔑",
  "",
  new Int32(-7),
  Long.fromString("9007199254740993"),
  Long.fromNumber(8),
  new Double(5),
  new Double(-0),
  new Double(0.5),
  new UUID(),
  new Binary(Buffer.from("bytes"), 0),
  new Date("1969-12-31T23:59:59.999Z"),
  Decimal128.fromString("1.50"),
  Timestamp.fromBits(1, 2),
  true,
  new MinKey(),
  new Map<string, unknown>([
    ["10", new Int32(1)],
    ["9", "nine"],
    [
      "a",
      new Map<string, unknown>([
        ["z", Long.fromNumber(3)],
        ["list", [new Double(2), { b: 1 }]],
      ]),
    ],
  ]),
];

test("_ids of every BSON type rotate and open with v2 alone; a broken one is named as it is stored", async () => {
  const install = await testInstall(CALM);
  const writer = await library(install, [1, 2], 1, "writer");
  const typed = install.db.collection("typed");
  for (const [i, id] of IDS.entries()) {
    const value = await writer.encrypt(`typed ${i}`, { collection: "typed", id, field: "deep.value" });
    await typed.insertOne({ _id: id as never, i, deep: { value } });
  }
  await writer.close();
  const fleet = await serveAll(install, "a");
  const last = IDS.length - 1;
  const intact = await typed.findOne({ i: last });
  const bytes = Buffer.from(intact?.["deep"].value.wrapped_dek.buffer);
  bytes[0] = (bytes[0] ?? 0) ^ 0x80;
  await typed.updateOne({ i: last }, { $set: { "deep.value.wrapped_dek": new Binary(bytes, 0) } });
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(6);
  expect(ran.stderr).toMatch(/record \{.*"nine".* of typed:deep\.value cannot be rewrapped/);
  const wrapped = intact?.["deep"].value.wrapped_dek;
  await typed.updateOne({ i: last }, { $set: { "deep.value.wrapped_dek": wrapped } });
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  expect(await versionsOf(install, "typed", "deep.value")).toEqual({ "2": IDS.length });

  const reader = await library(install, [2], 2, "reader");
  for (const [i, id] of IDS.entries()) {
    const record = await typed.findOne({ i });
    const opened = await reader.decrypt(record?.["deep"].value, { collection: "typed", id, field: "deep.value" });
    expect(opened.toString()).toBe(`typed ${i}`);
  }
  await reader.close();
  const checked = await run(["kek", "verify", "--records", "--json"], install.variables([2], 2));
  expect(checked.json).toMatchObject({ records: IDS.length, opened: IDS.length, failed: 0 });
  await proveAudit(install);
  await stop(...fleet);
  // An _id with its keys in another order is another _id.
  expect(ran.stderr).toContain('record {"10":{"$numberInt":"1"},"9":"nine","a":{');
});

test("records whose envelopes hold megabytes of rubbish are named in a line each, and block settling as any other", async () => {
  const install = await seededInstall(5, CALM);
  const record = await secretsOf(install).findOne({ _id: 1 });
  // As one document, what both hold is more than MongoDB stores.
  for (const _id of [100, 101]) {
    await secretsOf(install).insertOne({ _id, value: { ...record?.value, provider: "x".repeat(9_000_000) } });
  }
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(6);
  expect(ran.stderr.length).toBeLessThan(10_000);
  const { failed } = await newestRotation(install);
  expect(failed.map(({ id }: Document) => id).sort()).toEqual(['{"$numberInt":"100"}', '{"$numberInt":"101"}']);
  expect(await events(install, "record.failed")).toHaveLength(2);
  await proveAudit(install);
});
