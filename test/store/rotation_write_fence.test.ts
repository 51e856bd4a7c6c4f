import { expect, test } from "bun:test";
import { ensureCollections } from "../../src/fleet/open_install.ts";
import { unfencedCollections } from "../../src/fleet/write_fence_setter.ts";
import type { RotationDoc } from "../../src/protocol/documents.ts";
import { writeFenceClause } from "../../src/protocol/write_fence.ts";
import type { Context, Reporter } from "../../src/rotation/context.ts";
import { LeaseKeeper } from "../../src/rotation/lease_keeper.ts";
import { RotationWriteFence } from "../../src/rotation/rotation_write_fence.ts";
import type { Auditor } from "../../src/store/audit_log.ts";
import { readFields, registerField } from "../../src/store/fields.ts";
import { advancePhase, startRotation } from "../../src/store/rotation_steps.ts";
import { newestRotation } from "../../src/store/rotations.ts";
import { closeStore, openStore, type Store } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** The fence of a coordinator against real validators: what they do decides, not what was recorded. */

const AUDITOR: Auditor = { secret: "s", actor: "test", sinks: [] };

/** A coordinator in phase 2 of 1 → 2, with one field in each of these collections. */
async function coordinating(...collections: string[]) {
  const { uri, name, db } = await freshDatabase();
  const store: Store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  const docs = ["active", "staged"].map((state, index) => ({ _id: (index + 1) as never, state }));
  await db.collection("kek_versions").insertMany(docs);
  for (const collection of collections) await registerField(store, { collection, path: "f" }, "test");
  const terms = { owner: "me", leaseMs: 60_000, graceMs: 1000, replaces: undefined, fields: [] };
  const { _id, epoch } = (await startRotation(store, AUDITOR, { from: 1, to: 2, ...terms })) as RotationDoc;
  const doc = (await advancePhase(store, AUDITOR, { rotation: _id, epoch, token: 1 }, 2)) as RotationDoc;
  const lease = new LeaseKeeper(store, doc, 60_000);
  await lease.start();
  const notes: string[] = [];
  const reporter = { note: (message: string) => notes.push(message) } as unknown as Reporter;
  const fence = new RotationWriteFence({ store, auditor: AUDITOR } as Context, lease, reporter);
  const end = async () => {
    await lease.stop();
    await closeStore(store);
  };
  return { store, db, fence, notes, end };
}

const rejected = { code: 121 };

test("a collection that was dropped counts as unfenced, and is not made again", async () => {
  const { store, db, fence, notes, end } = await coordinating("c", "dropped");
  await db.collection("dropped").drop();
  expect(await fence.set(1, 2)).toBe(false);
  expect(await unfencedCollections(store, await readFields(store), 1)).toEqual(["dropped"]);
  expect(await db.listCollections({ name: "dropped" }).toArray()).toEqual([]);
  const write = db.collection("c").insertOne({ f: { kek_version: 1 } } as never);
  expect(write).rejects.toMatchObject(rejected);
  await write.catch(() => undefined);
  expect(notes).toEqual([expect.stringContaining("dropped (there is no such collection)")]);
  await end();
});

test("a fence on the version that is left counts as standing, and is lowered, when only the validators know of it", async () => {
  const { store, db, fence, end } = await coordinating("c");
  expect(await fence.stands(1)).toBe(false);
  await db.command({ collMod: "c", validator: writeFenceClause(["f"], [1]) });
  expect((await newestRotation(store))?.fence.versions).toEqual([]);
  expect(await fence.stands(1)).toBe(true);
  await fence.remove(1);
  expect(await fence.stands(1)).toBe(false);
  await db.collection("c").insertOne({ f: { kek_version: 1 } } as never);
  await end();
});
