import { expect, test } from "bun:test";
import { serialize } from "bson";
import { Binary, Decimal128, Double, Int32, Long } from "mongodb";
import { KekError } from "../../src/errors/errors.ts";
import type { Provider } from "../../src/providers/provider.ts";
import { rewrapBatch } from "../../src/rotation/rewrap_batch.ts";
import { applyRewraps, wrapsAt } from "../../src/store/rewrap_writes.ts";
import { LeaseEnd } from "../../src/store/rotation_lease.ts";
import { closeStore, openStore, serverNow } from "../../src/store/store.ts";
import { countAt } from "../../src/store/version_counts.ts";
import { makeIndex } from "../../src/store/version_index.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { ownReplicaSet } from "../harness/other_mongod.ts";
import { versionsOf } from "../harness/records.ts";

/** A batch against a real mongod, under a token that goes away in the middle of it. */

const FIELD = { collection: "secrets", path: "value" };
/** A lease that ends long after this. */
const HELD = { date: new Date(Date.now() + 3_600_000) };

const envelope = (id: number) => ({
  format: new Int32(1),
  provider: "pkcs11",
  kek_version: new Int32(1),
  wrapped_dek: new Binary(Buffer.alloc(60, id), 0),
  nonce: new Binary(Buffer.alloc(12, id), 0),
  ciphertext: new Binary(Buffer.alloc(32, id), 0),
});
const jobOf = (bytes: Uint8Array) => ({ kind: "rewrap" as const, field: FIELD, from: 1, to: 2, bytes, limitMs: 5000 });

test("a batch that the token leaves unfinished counts what it moved", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const secrets = db.collection<{ _id: number; value: object }>("secrets");
  await makeIndex(store, FIELD);
  await secrets.insertMany(Array.from({ length: 10 }, (_, id) => ({ _id: id, value: envelope(id) })));
  const [batch] = await Array.fromAsync(wrapsAt(store, { field: FIELD, version: 1, batchSize: 100 }));
  const job = jobOf(batch?.bytes as Uint8Array);
  /** It does so many, and then no more. */
  const doing = (most: number) => {
    let done = 0;
    const rewrap = async (wrap: Uint8Array) => {
      done += 1;
      if (done > most) throw new KekError("hsm_unavailable", "it does not answer", "see that it is up");
      return Buffer.alloc(60, 100 + (wrap[0] ?? 0));
    };
    return { name: "pkcs11", rewrap } as unknown as Provider;
  };
  const fault = { code: "hsm_unavailable" as const, message: "it does not answer" };
  expect(await rewrapBatch(store, { provider: doing(0), installId: "install", job, lease: HELD })).toEqual({
    done: 0,
    skipped: 0,
    failed: [],
    fault,
  });
  expect(await rewrapBatch(store, { provider: doing(4), installId: "install", job, lease: HELD })).toEqual({
    done: 4,
    skipped: 0,
    failed: [],
    fault,
  });
  expect(await versionsOf({ db })).toEqual({ "1": 6, "2": 4 });
  // The next pass may have been read before that: those four are somebody else's change to it.
  const rest = await rewrapBatch(store, { provider: doing(10), installId: "install", job, lease: HELD });
  expect(rest).toEqual({ done: 6, skipped: 4, failed: [], fault: undefined });
  await closeStore(store);
});

test("a kek_version of another type of number is found by MongoDB, named with its type, and neither moved nor left out", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await makeIndex(store, FIELD);
  const secrets = db.collection<{ _id: number; value: object }>("secrets", { promoteValues: false } as never);
  const types: Record<number, [unknown, string]> = {
    2: [Long.fromNumber(1), "an int64"],
    3: [new Double(1), "a double"],
    4: [Decimal128.fromString("1"), "a decimal128"],
    5: [Decimal128.fromString("1.00"), "a decimal128"],
  };
  const ids = [1, 2, 3, 4, 5, 6];
  await secrets.insertMany(
    ids.map((id) => ({ _id: id, value: { ...envelope(id), ...(types[id] && { kek_version: types[id][0] }) } })),
  );
  expect(await countAt(store, FIELD, 1)).toBe(6);
  const [batch] = await Array.fromAsync(wrapsAt(store, { field: FIELD, version: 1, batchSize: 100 }));
  const rewrapped: number[] = [];
  const rewrap = async (wrap: Uint8Array) => {
    rewrapped.push(wrap[0] as number);
    return Buffer.alloc(60, 100 + (wrap[0] ?? 0));
  };
  const token = { name: "pkcs11", rewrap } as unknown as Provider;
  const before = await secrets.find({ _id: { $in: [2, 3, 4, 5] } }).toArray();
  const result = await rewrapBatch(store, {
    provider: token,
    installId: "install",
    job: jobOf(batch?.bytes as Uint8Array),
    lease: HELD,
  });
  expect(result).toMatchObject({ done: 2, skipped: 0, fault: undefined });
  expect(rewrapped).toEqual([1, 6]);
  expect(result.failed.sort((a, b) => a.id.localeCompare(b.id))).toEqual(
    Object.entries(types).map(([id, [, type]]) => ({
      id: `{"$numberInt":"${id}"}`,
      reason: `not an envelope of format 1: its kek_version is ${type}, not an int32`,
    })),
  );
  expect(await secrets.find({ _id: { $in: [2, 3, 4, 5] } }).toArray()).toEqual(before);
  expect(await countAt(store, FIELD, 1)).toBe(4);
  await closeStore(store);
});

test("a record that MongoDB finds under another version than the one that is read is named, not left out", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await db.createCollection("secrets");
  // The batch was read under version 3.
  const bytes = serialize({ _id: 1, value: { ...envelope(1), format: undefined } }, { ignoreUndefined: true });
  const token = { name: "pkcs11", rewrap: async () => Buffer.alloc(60) } as unknown as Provider;
  const result = await rewrapBatch(store, {
    provider: token,
    installId: "install",
    job: { ...jobOf(bytes), from: 3 },
    lease: HELD,
  });
  const reason = "its kek_version is 1, and MongoDB found it under 3";
  expect(result).toEqual({ done: 0, skipped: 0, failed: [{ id: '{"$numberInt":"1"}', reason }], fault: undefined });
  await closeStore(store);
});

test("what a worker sends after the lease is over moves nothing, however late its thread or its token is", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await makeIndex(store, FIELD);
  const secrets = db.collection<{ _id: number; value: object }>("secrets");
  await secrets.insertMany(Array.from({ length: 10 }, (_, id) => ({ _id: id, value: envelope(id) })));
  const before = await secrets.find().sort({ _id: 1 }).toArray();
  const [batch] = await Array.fromAsync(wrapsAt(store, { field: FIELD, version: 1, batchSize: 100 }));
  const bytes = batch?.bytes as Uint8Array;
  const slowly = async (wrap: Uint8Array) => {
    await Bun.sleep(400);
    return Buffer.alloc(60, 100 + (wrap[0] ?? 0));
  };
  const token = { name: "pkcs11", rewrap: slowly } as unknown as Provider;
  const lease = new LeaseEnd();
  const worker = new LeaseEnd(lease.shared);
  const nothing = { done: 0, skipped: 10, failed: [], fault: undefined };
  // Before the first renewal, and when the lease ended while the token was at work.
  expect(await rewrapBatch(store, { provider: token, installId: "install", job: jobOf(bytes), lease: worker })).toEqual(
    nothing,
  );
  lease.set(new Date((await serverNow(store)).getTime() + 300));
  expect(await rewrapBatch(store, { provider: token, installId: "install", job: jobOf(bytes), lease: worker })).toEqual(
    nothing,
  );
  expect(await secrets.find().sort({ _id: 1 }).toArray()).toEqual(before);
  // Renewed meanwhile, which the worker sees when it comes to send.
  const rewrapping = rewrapBatch(store, { provider: token, installId: "install", job: jobOf(bytes), lease: worker });
  lease.set(new Date((await serverNow(store)).getTime() + 60_000));
  expect(await rewrapping).toEqual({ ...nothing, done: 10, skipped: 0 });
  expect(await versionsOf({ db })).toEqual({ "2": 10 });
  await closeStore(store);
});

test("a new wrap lands only where its old one was, alone; what has become of the others stays", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const secrets = db.collection<{ _id: number; value: object }>("secrets");
  const wrap = (fill: number) => new Binary(Buffer.alloc(60, fill), 0);
  const values = [
    { kek_version: new Int32(1), wrapped_dek: wrap(10) },
    // A filter on a wrap finds these too: an array that it is in, and a value that is an array itself.
    { kek_version: new Int32(1), wrapped_dek: [wrap(11), wrap(99)] },
    [{ kek_version: new Int32(1), wrapped_dek: wrap(12) }],
    { kek_version: new Int32(1), wrapped_dek: wrap(98) },
    { kek_version: new Int32(2), wrapped_dek: wrap(14) },
    { kek_version: new Int32(1), wrapped_dek: wrap(15) },
    // Another's old wrap is not its own.
    { kek_version: new Int32(1), wrapped_dek: new Binary(Buffer.alloc(60, 16), 4) },
  ];
  await secrets.insertMany(values.map((value, _id) => ({ _id, value })));
  const before = await secrets.find().sort({ _id: 1 }).toArray();
  const rewraps = values.map((_, id) => ({
    idBson: serialize({ _id: id }),
    oldWrap: Buffer.alloc(60, 10 + id),
    newWrap: Buffer.alloc(60, 20 + id),
  }));
  const outcome = await applyRewraps(store, { field: FIELD, from: 1, to: 2, rewraps, limitMs: 5000, lease: HELD });
  // Record 0 moved too: of a statement that ends with an error MongoDB does not say what it had changed before.
  expect(outcome.done).toBe(1);
  expect(outcome.rejected.map(({ index }) => index)).toEqual([1, 2]);
  const after = await secrets.find().sort({ _id: 1 }).toArray();
  const moved = (id: number) => ({ _id: id, value: { kek_version: 2, wrapped_dek: wrap(20 + id) } });
  expect(after).toEqual(before.map((record) => ([0, 5].includes(record._id) ? moved(record._id) : record)));
  await closeStore(store);
});

test("however many records a validator refuses, each is named, by one command more", async () => {
  const uri = await ownReplicaSet();
  const { name, db } = await freshDatabase(uri);
  const store = await openStore({ uri, name }, { appName: "test" });
  const secrets = db.collection<{ _id: number; value: object }>("secrets");
  const wrap = (id: number) => new Binary(Buffer.alloc(60, id), 0);
  const ids = Array.from({ length: 200 }, (_, id) => id);
  await secrets.insertMany(ids.map((_id) => ({ _id, value: { kek_version: new Int32(1), wrapped_dek: wrap(_id) } })));
  // Every other record is as the validator wants it; level strict checks what was there before too.
  await secrets.updateMany({ _id: { $mod: [2, 0] } }, { $set: { fine: true } });
  await db.command({ collMod: "secrets", validator: { fine: true } });
  const updates = async () => (await db.admin().serverStatus())["metrics"].commands.update.total as number;
  const rewraps = ids.map((id) => ({
    idBson: serialize({ _id: id }),
    oldWrap: Buffer.alloc(60, id),
    newWrap: Buffer.alloc(60, id + 1),
  }));
  const before = await updates();
  const outcome = await applyRewraps(store, { field: FIELD, from: 1, to: 2, rewraps, limitMs: 5000, lease: HELD });
  expect((await updates()) - before).toBe(2);
  expect(outcome.rejected.map(({ index }) => index)).toEqual(ids.filter((id) => id % 2 === 1));
  expect(await versionsOf({ db })).toEqual({ "1": 100, "2": 100 });
  await closeStore(store);
});
