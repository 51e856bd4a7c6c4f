import { expect, test } from "bun:test";
import { Buffer } from "node:buffer";
import { type Db, Double, Long, MongoClient, ObjectId, UUID } from "mongodb";
import * as driver6 from "mongodb-6";
import { exactId, idBsonOf } from "../../src/envelope/raw_record.ts";
import type { KekError } from "../../src/errors/errors.ts";
import type { DriverCollection, FieldEncryption } from "../../src/index.ts";
import { codeOf } from "../harness/codes.ts";
import { library } from "../harness/library.ts";
import { stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { kek as command, heartbeat, rotating, seededInstall } from "../harness/schedule.ts";

/** The library as a service uses it: documents with plaintext here and envelopes in MongoDB, whatever driver it brings. */

interface Vault {
  _id: unknown;
  name?: string;
  token?: string | null;
  key?: { pem?: string; der?: Uint8Array };
}
const FIELDS = { fields: { token: "text", "key.pem": "text", "key.der": "bytes" } } as const;

/** What a rotation does before it rewraps: the `_id` is cut out of the raw record, and must open the envelope. */
async function opensAsRotated(kek: FieldEncryption, install: TestInstall, collection: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const raw of install.db.collection(collection).find({}, { raw: true })) {
    const id = exactId(idBsonOf(raw as unknown as Uint8Array));
    const record = await install.db.collection(collection).findOne({ _id: id as never });
    texts.push((await kek.decrypt(record?.["token"], { collection, id, field: "token" })).toString("utf8"));
  }
  return texts;
}

/** The same `_id`s as types of each driver's own bson package. */
const idsOf = (types: { ObjectId: typeof ObjectId; UUID: typeof UUID; Long: typeof Long; Double: typeof Double }) => ({
  ObjectId: new types.ObjectId(),
  UUID: new types.UUID(),
  text: "ada",
  int32: 1,
  double: 1.5,
  "negative zero": -0,
  bigint: 5n,
  "int64 in the range of int32": types.Long.fromNumber(7),
  "int64 beyond it": types.Long.fromNumber(2 ** 40),
  "double of a whole value": new types.Double(9),
  date: new Date(86_400_000),
  subdocument: { tenant: types.Long.fromNumber(3), "10": "b", n: 1 },
});

test("each type of _id: inserted, read, changed, and opened by the bytes that are stored, with drivers 7 and 6", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const client6 = await new driver6.MongoClient(install.uri).connect();
  const drivers: [string, Db | driver6.Db, Record<string, unknown>][] = [
    ["seven", install.db, idsOf({ ObjectId, UUID, Long, Double })],
    ["six", client6.db(install.name), idsOf(driver6 as never)],
  ];
  for (const [name, db, ids] of drivers) {
    const vault = kek.collection<Vault>(db.collection(name), FIELDS);
    for (const [type, _id] of Object.entries(ids)) {
      await vault.insertOne({ _id, token: `first ${type}` });
      const read = (await db.collection(name).findOne({ _id: _id as never })) as { _id: unknown } | null;
      // As a service does it: with the _id that its driver gave it, a number where an int64 is stored.
      expect(await vault.findOne({ _id: read?._id })).toMatchObject({ token: `first ${type}` });
      const change = { $set: { token: `second ${type}` } };
      expect(await vault.updateOne({ _id: read?._id }, change)).toMatchObject({ matchedCount: 1, modifiedCount: 1 });
      expect(await vault.findOne({ _id })).toMatchObject({ token: `second ${type}` });
    }
    const expected = Object.keys(ids).map((type) => `second ${type}`);
    const listed = (await vault.find({}).toArray()).map(({ token }) => token);
    expect(listed.sort()).toEqual(expected.sort() as never);
    expect((await opensAsRotated(kek, install, name)).sort()).toEqual(expected);
  }
  await client6.close();
});

test("findOneAndUpdate says that its update was made when the record that it returns cannot be opened", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const records = install.db.collection<{ _id: string }>("vault");
  const vault = kek.collection<Vault>(install.db.collection("vault"), FIELDS);
  await records.insertOne({ _id: "plain", token: "written past the library" } as never);
  const { insertedId } = await vault.insertOne({ _id: "damaged", token: "t" });
  await records.updateOne({ _id: insertedId as string }, { $unset: { "token.nonce": "" } });
  for (const [_id, found] of [
    ["plain", "plaintext, not an envelope of format 1: "],
    ["damaged", "not an envelope of format 1: "],
  ] as const) {
    const updating = vault.findOneAndUpdate({ _id }, { $set: { token: `new ${_id}` } });
    const thrown = (await updating.catch((error: unknown) => error)) as KekError;
    expect(thrown.code).toBe("envelope_invalid");
    expect(thrown.message).toStartWith(`the update was made; the returned document cannot be opened: ${found}`);
    expect(thrown.hint).toStartWith("do not repeat the update");
    expect((thrown.cause as KekError).message).toStartWith(found);
    expect(await vault.findOne({ _id })).toMatchObject({ token: `new ${_id}` });
    // What is returned is the record after the update: nothing is wrong with it.
    const options = { returnDocument: "after" } as const;
    expect(await vault.findOneAndUpdate({ _id }, { $set: { token: "newer" } }, options)).toMatchObject({
      token: "newer",
    });
  }
  // A read does not say so.
  await records.insertOne({ _id: "read", token: "plain" } as never);
  expect(((await vault.findOne({ _id: "read" }).catch((error: unknown) => error)) as KekError).message).toStartWith(
    "plain",
  );
  await kek.close();
});

test("a record's life: fields within fields, bytes, nothing at all, upserts, projections, cursors", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const vault = kek.collection<Vault>(install.db.collection("vault"), FIELDS);
  const der = Buffer.from([0, 255, 1]);
  // Not by chance in the base64 of a ciphertext.
  const token = "a token: t1";
  const { insertedId } = await vault.insertOne({ name: "ada", token, key: { pem: "-----", der } });
  expect(ObjectId.isValid(insertedId as string)).toBe(true);
  expect(await vault.findOne({ name: "ada" })).toEqual({
    _id: insertedId,
    name: "ada",
    token,
    key: { pem: "-----", der },
  });
  const stored = await install.db.collection("vault").findOne({});
  for (const envelope of [stored?.["token"], stored?.["key"].pem, stored?.["key"].der])
    expect(envelope).toMatchObject({ format: 1, provider: "env", kek_version: 1 });
  expect(JSON.stringify(stored)).not.toMatch(/a token|-----/);

  // A field in a subdocument is set by its path, and with the whole of it; nothing stays nothing.
  const one = { _id: insertedId };
  await vault.updateOne(one, { $set: { "key.pem": "p2", token: null } });
  expect(await vault.findOne(one)).toMatchObject({ token: null, key: { pem: "p2", der } });
  const after = await vault.findOneAndUpdate(
    one,
    { $set: { key: { pem: "p3" } }, $unset: { token: "" } },
    { returnDocument: "after" },
  );
  expect(after).toEqual({ _id: insertedId, name: "ada", key: { pem: "p3" } });
  expect(await vault.findOne(one, { projection: { name: 1 } })).toEqual({ _id: insertedId, name: "ada" } as never);

  const grace = { name: "grace", token: "g" };
  expect(await vault.replaceOne({ _id: "grace" }, grace)).toMatchObject({ matchedCount: 0 });
  expect(await vault.replaceOne({ _id: "grace" }, grace, { upsert: true })).toMatchObject({ upsertedCount: 1 });
  expect(await vault.updateOne({ _id: "grace", name: "nobody" }, { $set: { token: "x" } })).toMatchObject({
    matchedCount: 0,
  });
  await vault.updateOne({ _id: 12 }, { $setOnInsert: { token: "by upsert" } }, { upsert: true });
  const { insertedIds } = await vault.insertMany([{ token: "many 0" }, { _id: "m", token: "many 1" }]);
  expect(insertedIds[1]).toBe("m");
  const tokens: unknown[] = [];
  for await (const { token } of vault.find({ token: { $exists: true } }, { sort: { $natural: 1 } })) tokens.push(token);
  expect(tokens).toEqual(["g", "by upsert", "many 0", "many 1"]);

  // In a transaction it is all or nothing, and what stands in it is read in it.
  const client = await new MongoClient(install.uri).connect();
  await client.withSession(async (session) => {
    await kek.write(() =>
      session.withTransaction(async () => {
        const inside = kek.collection<Vault>(client.db(install.name).collection("vault"), FIELDS);
        await inside.insertOne({ _id: "tx", token: "a" }, { session });
        await inside.updateOne({ _id: "tx" }, { $set: { token: "b" } }, { session });
      }),
    );
  });
  await client.close();
  expect(await vault.findOne({ _id: "tx" })).toMatchObject({ token: "b" });
});

test("a record that is read and replaced keeps the form of its _id, which its envelope is bound to", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const raw = install.db.collection<{ _id: unknown }>("users");
  const users = kek.collection(raw, { fields: { token: "text" } });
  await raw.insertMany([{ _id: new Double(6) }, { _id: Long.fromNumber(7) }]);
  for (const _id of [6, 7, 8]) {
    const read = (await users.findOne({ _id })) ?? { _id };
    await users.replaceOne({ _id: read._id }, { ...read, token: `of ${_id}` }, { upsert: true });
  }
  const stored = await raw.find({}, { promoteValues: false, sort: { _id: 1 } }).toArray();
  expect(stored.map(({ _id }) => (_id as { _bsontype: string })._bsontype)).toEqual(["Double", "Long", "Int32"]);
  for (const { _id } of stored) {
    const sealed = (await install.db.collection("users").findOne({ _id: _id as ObjectId }))?.["token"];
    expect((await kek.decrypt(sealed, { collection: "users", id: _id, field: "token" })).toString()).toBe(`of ${_id}`);
  }
  const other = users.replaceOne({ _id: 8 }, { _id: new Double(8), token: "x" });
  expect(await codeOf(() => other)).toBe("usage");
});

test("what encrypted fields cannot do is refused before anything is written, and quotes no secret", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const collection = install.db.collection("vault");
  const vault = kek.collection<Vault>(collection, FIELDS);
  await vault.insertOne({ _id: 1, token: "s3cret", key: { pem: "p" } });
  const before = await collection.find().toArray();
  const one = { _id: 1 };
  const refused: Record<string, () => unknown> = {
    "a filter without _id": () => vault.updateOne({ name: "ada" } as never, { $set: { token: "s3cret" } }),
    "an operator on _id": () => vault.updateOne({ _id: { $in: [1] } }, { $set: { token: "s3cret" } }),
    "a pipeline": () => vault.updateOne(one, [{ $set: { token: "s3cret" } }] as never),
    "an operator that computes": () => vault.updateOne(one, { $push: { token: "s3cret" } }),
    "a rename onto it": () => vault.updateOne(one, { $rename: { name: "token" } }),
    "a part of an envelope": () => vault.updateOne(one, { $set: { "token.kek_version": 2 } }),
    "another kind of value": () => vault.updateOne(one, { $set: { token: Buffer.from("s3cret") as never } }),
    "an envelope in place of plaintext": () => vault.insertOne({ token: before[0]?.["token"] }),
    "a path through an array": () => vault.insertOne({ key: [{ pem: "s3cret" }] as never }),
    "a search by value": () => vault.findOne({ $or: [{ token: "s3cret" }] }),
    "a read without _id": () => vault.findOne({}, { projection: { _id: 0 } }),
    "an insertMany out of order": () => vault.insertMany([{ token: "s3cret" }], { ordered: false }),
    "an _id with undefined in it": () => vault.insertOne({ _id: { a: undefined }, token: "s3cret" }),
    "another database": () => kek.collection<Vault>(install.db.client.db("elsewhere").collection("vault"), FIELDS),
    "text that is none": async () => {
      await kek
        .collection<Vault>(install.db.collection("other"), FIELDS)
        .insertOne({ _id: 1, key: { der: Buffer.from([255]) } });
      const options = { fields: { "key.der": "text" } } as never;
      return await kek.collection<Vault>(install.db.collection("other"), options).findOne(one);
    },
  };
  for (const [what, attempt] of Object.entries(refused)) {
    const thrown = await Promise.resolve()
      .then(attempt)
      .then(
        () => undefined,
        (error) => error,
      );
    expect([what, thrown?.code]).toEqual([what, "usage"]);
    expect(`${thrown.message} ${thrown.hint}`).not.toContain("s3cret");
    expect(thrown.hint).not.toBe("");
  }
  expect(await collection.find().toArray()).toEqual(before);
  // What was not encrypted is not passed off as if it had been.
  await collection.insertOne({ _id: 2 as never, token: "plain" });
  expect(await codeOf(() => vault.findOne({ _id: 2 }))).toBe("envelope_invalid");
});

test("many values: in order, all or none with the number of the one that failed, the event loop continues", async () => {
  const install = await testInstall();
  const kek = await library(install, [1], 1);
  const place = (id: number) => ({ collection: "many", id, field: "value" });
  const items = Array.from({ length: 5000 }, (_, id) => ({ plaintext: `secret ${id}`, place: place(id) }));
  let turns = 0;
  const beat = setInterval(() => {
    turns += 1;
  }, 1);
  const envelopes = await kek.encryptMany(items);
  clearInterval(beat);
  expect(turns).toBeGreaterThan(3);
  const sealed = envelopes.map((envelope, id) => ({ envelope, place: place(id) }));
  expect((await kek.decryptMany(sealed)).map(String)).toEqual(items.map(({ plaintext }) => plaintext));
  expect(await kek.encryptMany([])).toEqual([]);

  const moved = sealed.map((item, id) => (id === 70 || id === 3000 ? { ...item, place: place(-1) } : item));
  const thrown = await kek.decryptMany(moved).catch((error) => error);
  expect(thrown).toMatchObject({ code: "decryption_failed" });
  expect(thrown.message).toStartWith("item 70 of 5000: ");
  const large = { plaintext: Buffer.alloc(8 * 1024 * 1024 + 1), place: place(1) };
  expect(await codeOf(() => kek.encryptMany([...items.slice(0, 3), large]))).toBe("plaintext_too_large");
});

test("closing: what is in hand ends, a write's own encrypt too; what is new is refused; nobody waits for it after", async () => {
  const install = await testInstall();
  const fleet = await install.serve("a", [1], 1);
  const kek = await library(install, [1], 1, "leaving");
  const place = { collection: "vault", id: 1, field: "token" };
  const envelope = await kek.encrypt("before", place);
  let goOn = () => undefined as unknown;
  const asked = new Promise((resolve) => {
    goOn = () => resolve(undefined);
  });
  const inHand = kek.write(async () => {
    await asked;
    return await kek.encrypt("in hand", place);
  });
  const closing = kek.close();
  const refused = [
    () => kek.encrypt("new", place),
    () => kek.decrypt(envelope, place),
    () => kek.encryptMany([]),
    () => kek.write(async () => "new"),
    () => kek.collection<Vault>(install.db.collection("vault"), FIELDS).insertOne({ token: "new" }),
  ];
  for (const attempt of refused) expect(await codeOf(attempt)).toBe("closed");
  expect(kek.problem).toBe("it is closed");
  expect(await heartbeat(install, "leaving")).not.toBeNull();
  goOn();
  expect(Number((await inHand).kek_version)).toBe(1);
  await Promise.all([closing, kek.close(), kek.close()]);
  expect(await heartbeat(install, "leaving")).toBeNull();
  {
    await using scoped = await library(install, [1], 1, "scoped");
    expect((await scoped.decrypt(envelope, place)).toString("utf8")).toBe("before");
  }
  expect(await heartbeat(install, "scoped")).toBeNull();
  await stop(fleet);
});

test("writes that a rotation overtook meet the fence, and are carried through: one record, many, a change", async () => {
  const install = await seededInstall(5);
  const kek = await library(install, [1, 2], 2, "writer");
  const real = install.db.collection("vault");
  await kek.collection<Vault>(real, FIELDS).insertOne({ _id: "old", token: "old" });
  const codes: unknown[] = [];
  let rotated = () => undefined as unknown;
  const over = new Promise((resolve) => {
    rotated = () => resolve(undefined);
  });
  let held = 0;
  const late = <R>(send: () => Promise<R>) => {
    held += 1;
    return over.then(send).catch((thrown) => {
      codes.push(thrown.code);
      throw thrown;
    });
  };
  // The driver's own collection, with each write held back: it is sent once the rotation is over.
  const slow: DriverCollection = {
    dbName: real.dbName,
    collectionName: real.collectionName,
    insertOne: (document, options) => late(() => real.insertOne(document, options)),
    insertMany: (documents, options) => late(() => real.insertMany(documents, options)),
    replaceOne: (filter, document, options) => late(() => real.replaceOne(filter, document, options)),
    updateOne: (filter, update, options) => late(() => real.updateOne(filter, update, options)),
    findOne: (filter, options) => real.findOne(filter, options ?? {}),
    findOneAndUpdate: (filter, update, options) => late(() => real.findOneAndUpdate(filter, update, options ?? {})),
    find: (filter, options) => real.find(filter, options),
  };
  const vault = kek.collection<Vault>(slow, FIELDS);
  const writes = Promise.all([
    vault.insertOne({ _id: "one", token: "one" }),
    // The first has no envelope, and is stored; the second is rejected: only what is left may be sent again.
    vault.insertMany([{ _id: "m0" }, { _id: "m1", token: "m1" }, { _id: "m2", token: "m2" }]),
    vault.updateOne({ _id: "old" }, { $set: { token: "new" } }),
    vault.findOneAndUpdate({ _id: "up" }, { $set: { token: "up" } }, { upsert: true }),
  ]);
  await until("each write is held back", async () => held === 4);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  rotated();
  await writes;
  expect(codes).toEqual([121, 121, 121, 121]);
  const read = await kek
    .collection<Vault>(real, FIELDS)
    .find({}, { sort: { _id: 1 } })
    .toArray();
  expect(read.map(({ _id, token }) => [_id, token ?? null])).toEqual([
    ["m0", null],
    ["m1", "m1"],
    ["m2", "m2"],
    ["old", "new"],
    ["one", "one"],
    ["up", "up"],
  ]);
  const verified = await command(install, "verify", "--records");
  expect(verified.json).toMatchObject({ records: 10, opened: 10, failed: 0 });
});
