import { expect, test } from "bun:test";
import { Binary, Int32 } from "mongodb";
import { KekError } from "../../src/errors/errors.ts";
import type { Provider } from "../../src/providers/provider.ts";
import { rewrapBatch } from "../../src/rotation/rewrap_batch.ts";
import { ensureIndex } from "../../src/store/fields.ts";
import { wrapsAt } from "../../src/store/records.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { versionsOf } from "../harness/records.ts";

/** A batch against a real mongod, under a token that goes away in the middle of it. */

const FIELD = { collection: "secrets", path: "value" };

test("a batch that the token leaves unfinished counts what it moved", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const secrets = db.collection<{ _id: number; value: object }>("secrets");
  await ensureIndex(store, FIELD);
  const envelope = (id: number) => ({
    format: new Int32(1),
    provider: "pkcs11",
    kek_version: new Int32(1),
    wrapped_dek: new Binary(Buffer.alloc(60, id), 0),
    nonce: new Binary(Buffer.alloc(12, id), 0),
    ciphertext: new Binary(Buffer.alloc(32, id), 0),
  });
  await secrets.insertMany(Array.from({ length: 10 }, (_, id) => ({ _id: id, value: envelope(id) })));
  const [batch] = await Array.fromAsync(wrapsAt(store, FIELD, 1, 100));
  const job = {
    kind: "rewrap" as const,
    field: FIELD,
    from: 1,
    to: 2,
    bytes: batch?.bytes as Uint8Array,
    limitMs: 5000,
  };
  /** It does so many, and then no more. */
  const doing = (most: number) => {
    let done = 0;
    const rewrap = async (wrap: Uint8Array) => {
      done += 1;
      if (done > most) throw new KekError("hsm_away", "it does not answer", "see that it is up");
      return Buffer.alloc(60, 100 + (wrap[0] ?? 0));
    };
    return { name: "pkcs11", rewrap } as unknown as Provider;
  };
  const fault = { code: "hsm_away" as const, message: "it does not answer" };
  expect(await rewrapBatch(store, doing(0), "install", job)).toEqual({ done: 0, skipped: 0, failed: [], fault });
  expect(await rewrapBatch(store, doing(4), "install", job)).toEqual({ done: 4, skipped: 0, failed: [], fault });
  expect(await versionsOf({ db })).toEqual({ "1": 6, "2": 4 });
  // The next pass may have been read before that: those four are somebody else's change to it.
  const rest = await rewrapBatch(store, doing(10), "install", job);
  expect(rest).toEqual({ done: 6, skipped: 4, failed: [], fault: undefined });
  await closeStore(store);
});
