import { expect, test } from "bun:test";
import { serialize } from "bson";
import { Binary, type Document } from "mongodb";
import { splitDocuments } from "../../src/envelope/raw_record.ts";
import { envelopesOf } from "../../src/store/rewrap_writes.ts";
import { library } from "../harness/library.ts";
import { run, start, type TestInstall, until } from "../harness/program.ts";
import { CALM, kek, seededInstall } from "../harness/schedule.ts";

/** `kek verify --records`: every envelope opened in threads, each bad one named, gone on with after an interruption. */

const secretsOf = (install: TestInstall) => install.db.collection<{ _id: number; value: Document }>("secrets");

/** Each with what must be said of it. */
const BREAKAGES: [(value: Document, neighbour: Document) => unknown, RegExp][] = [
  [(value) => ({ ...value, wrapped_dek: flipped(value["wrapped_dek"]) }), /wrapped data key does not open/],
  [(value) => ({ ...value, ciphertext: flipped(value["ciphertext"]) }), /ciphertext does not open/],
  [(value) => ({ ...value, nonce: flipped(value["nonce"]) }), /ciphertext does not open/],
  [(_value, neighbour) => neighbour, /does not open/],
  [(value) => ({ ...value, ciphertext: "text" }), /ciphertext is not BinData/],
  [(value) => ({ ...value, kek_version: 9 }), /KEK version 9, which is not known/],
  [(value) => ({ ...value, format: 2 }), /format is not 1/],
  [(value) => ({ ...value, ["x".repeat(5000)]: 1 }), /unknown key "x{900}/],
  [() => null, /not a subdocument/],
  [() => "plaintext", /^plaintext, not an envelope .*not a subdocument/],
];

function flipped(binary: Binary): Binary {
  const bytes = Buffer.from(binary.value());
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1;
  return new Binary(bytes, 0);
}

test("each bad record is named by collection, id, field and reason; the others open, and no record is changed", async () => {
  const install = await seededInstall(40, CALM);
  for (const [i, [broken]] of BREAKAGES.entries()) {
    const id = 3 * i;
    const [value, next] = await Promise.all(
      [id, id + 1].map(async (_id) => (await secretsOf(install).findOne({ _id }))?.value),
    );
    await secretsOf(install).updateOne(
      { _id: id },
      { $set: { value: broken(value as Document, next as Document) as never } },
    );
  }
  const before = await secretsOf(install).find().sort({ _id: 1 }).toArray();
  const ran = await kek(install, "verify", "--records");
  expect(ran.code).toBe(6);
  expect(ran.json).toMatchObject({
    ready: false,
    records: 40,
    opened: 40 - BREAKAGES.length,
    failed: BREAKAGES.length,
  });
  expect(ran.json).toMatchObject({ stale_envelopes: [], resumed: null });
  const bad: { collection: string; path: string; id: string; reason: string }[] = ran.json.bad;
  for (const [i, [, reason]] of BREAKAGES.entries()) {
    const found = bad.filter(({ id }) => id === `{"$numberInt":"${3 * i}"}`);
    expect(found).toMatchObject([{ collection: "secrets", path: "value" }]);
    expect(found[0]?.reason).toMatch(reason);
    expect(found[0]?.reason.length).toBeLessThan(1100);
  }
  const told = await run(["kek", "verify", "--records"], install.variables([1, 2], 2));
  expect(told.stdout).toContain('secrets:value {"$numberInt":"3"}: ');
  expect(told.stderr).toContain(
    `error: ${BREAKAGES.length} envelopes do not open, and 1 of them is plaintext\nhint: where it is plaintext, write`,
  );
  expect(await secretsOf(install).find().sort({ _id: 1 }).toArray()).toEqual(before);
  // Whole and undisturbed, it leaves nothing behind to go on with.
  expect(await install.db.collection("kek_verifications").countDocuments()).toBe(0);
});

const MANY = 60_000;

/** So many records that each hold a copy of one envelope: all but the original are out of place. */
async function copies(install: TestInstall): Promise<void> {
  const value = { $literal: (await secretsOf(install).findOne({ _id: 0 }))?.value };
  for (let first = 1; first < MANY; first += 15_000) {
    const input = { $range: [first, Math.min(MANY, first + 15_000)] };
    const documents = { $map: { input, as: "i", in: { _id: "$$i", value } } };
    await install.db.aggregate([{ $documents: documents }, { $merge: "secrets" }]).toArray();
  }
}

async function killedMidway(install: TestInstall): Promise<void> {
  const running = start(["kek", "verify", "--records", "--json"], install.variables([1, 2], 2));
  await until(
    "a position is kept",
    async () => (await install.db.collection("kek_verifications").findOne())?.["at"] != null,
  );
  running.kill("SIGKILL");
  expect((await running.exited).code).toBe(null);
}

test("one that is killed is gone on with, finds every record once, and lists 1000 of many; other keys: it begins again", async () => {
  const install = await seededInstall(1, CALM);
  await copies(install);
  await killedMidway(install);
  const kept = await install.db.collection("kek_verifications").findOne();
  const ran = await kek(install, "verify", "--records");
  const resumed = /^resumed at (\d+) of 60000 records/m.exec(ran.stderr);
  expect(Number(resumed?.[1])).toBe(kept?.["records"]);
  expect(ran.code).toBe(6);
  expect(ran.json).toMatchObject({ records: MANY, opened: 1, failed: MANY - 1, resumed: expect.stringMatching(/^20/) });
  const ids = ran.json.bad.map(({ id }: { id: string }) => id);
  expect(ids).toEqual(Array.from({ length: 1000 }, (_, i) => `{"$numberInt":"${i + 1}"}`));

  await killedMidway(install);
  await (await library(install, [1, 2, 3], 2, "holder-of-3")).close();
  const restart = start(["kek", "verify", "--records"], install.variables([1, 2], 2));
  await restart.says(/is not gone on with: .*versions have changed/);
  restart.kill("SIGKILL");
  await restart.exited;
}, 90_000);

test("a position among _ids of every type leaves out what lies before it and nothing else", async () => {
  const install = await seededInstall(1, CALM);
  const { MinKey, MaxKey, ObjectId, Double, Long, Decimal128, Timestamp } = await import("mongodb");
  const ids: unknown[] = [
    new MinKey(),
    new MaxKey(),
    new ObjectId(),
    "b",
    "a",
    "",
    5,
    7,
    new Double(5.5),
    Long.MAX_VALUE,
  ];
  ids.push(
    Decimal128.fromString("6"),
    new Date(0),
    new Timestamp({ t: 1, i: 1 }),
    true,
    false,
    new Binary(Buffer.from("x")),
  );
  ids.push(
    new Map([
      ["10", 1],
      ["9", 2],
    ]),
    new Map([
      ["9", 2],
      ["10", 1],
    ]),
    null,
  );
  await install.db.collection("typed").insertMany(ids.map((_id) => ({ _id, value: 1 })) as never);
  const store = { client: install.db.client, db: install.db };
  const { exactId, idBsonOf, idText } = await import("../../src/envelope/raw_record.ts");
  const read = async (after?: { id: unknown }) => {
    const found: unknown[] = [];
    for await (const { bytes } of envelopesOf(store, { collection: "typed", path: "value" }, 4, after))
      for (const raw of splitDocuments(bytes)) found.push(exactId(idBsonOf(raw)));
    return found;
  };
  const all = await read();
  expect(all).toHaveLength(ids.length);
  for (const [i, id] of all.entries()) expect((await read({ id })).map(idText)).toEqual(all.slice(i + 1).map(idText));
});

test("a field registered since a run was interrupted does not make it count records twice", async () => {
  const install = await seededInstall(5);
  const after = new Binary(serialize({ _id: 2 }), 0);
  await install.db.collection("kek_verifications").insertOne({
    _id: "records" as never,
    started_at: new Date(),
    basis: "epoch 0; versions 1 active, 2 staged",
    done: [],
    at: { field: "secrets:value", after },
    records: 3,
    opened: 3,
    failed: 0,
    bad: [],
  });
  const field = { _id: "earlier:value" as never, collection: "earlier", path: "value" };
  await install.db.collection("kek_fields").insertOne(field);
  const ran = await kek(install, "verify", "--records");
  expect(ran.json).toMatchObject({ records: 5, opened: 5, failed: 0, resumed: expect.any(String) });
});
