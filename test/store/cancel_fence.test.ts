import { expect, test } from "bun:test";
import { Binary } from "mongodb";
import { ensureCollections } from "../../src/fleet/open_install.ts";
import type { RotationDoc } from "../../src/protocol/documents.ts";
import { cancel, liftFenceOfCancelled } from "../../src/rotation/cancel.ts";
import type { Context } from "../../src/rotation/context.ts";
import type { Auditor } from "../../src/store/audit_log.ts";
import { takeOver } from "../../src/store/rotation_lease.ts";
import { advancePhase, cancelRotation, completeRotation, startRotation } from "../../src/store/rotation_steps.ts";
import { newestRotation } from "../../src/store/rotations.ts";
import { closeStore, openStore, type Store } from "../../src/store/store.ts";
import { codeOf } from "../harness/codes.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** What a cancel may do to the fence, in two races that the model found. Against a real mongod. */

const AUDITOR: Auditor = { secret: "s", actor: "test", sinks: [] };

async function start(store: Store, from: number, to: number): Promise<RotationDoc> {
  const wanted = { from, to, owner: "me", leaseMs: 60_000, graceMs: 0, replaces: undefined, fields: [] };
  return there(await startRotation(store, AUDITOR, wanted));
}

const advance = async (store: Store, doc: RotationDoc, phase: 2 | 3) =>
  there(await advancePhase(store, AUDITOR, heldOf(doc), phase));
const heldOf = (doc: RotationDoc) => ({ rotation: doc._id, epoch: doc.epoch, token: doc.lease?.token ?? 0 });

function there<T>(doc: T | undefined): T {
  if (doc === undefined) throw new Error("the step was refused");
  return doc;
}

async function install(): Promise<Store> {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  const common = {
    provider: "env",
    canary: new Binary(Buffer.alloc(60)),
    canary_digest: new Binary(Buffer.alloc(32)),
    wraps: 1,
    staged_at: new Date(),
  };
  await db.collection("kek_versions").insertMany([
    { _id: 1 as never, state: "active", ...common },
    { _id: 2 as never, state: "staged", ...common },
  ]);
  return store;
}

const nobody = () => undefined;

async function fenced(store: Store, versions: number[]): Promise<void> {
  const newest = there(await newestRotation(store));
  await store.db
    .collection("kek_rotations")
    .updateOne({ _id: newest._id as never }, { $set: { fence: { versions, collections: [] } } });
}

test("a reverse rotation is cancelled in phase 1 while its target is fenced, and not once the fence is lifted", async () => {
  const store = await install();
  const context = { store, auditor: AUDITOR } as Context;
  const first = await advance(store, await advance(store, await start(store, 1, 2), 2), 3);
  await fenced(store, [1]);
  there(await completeRotation(store, AUDITOR, heldOf(first)));

  await start(store, 2, 1);
  expect((await cancel(context, nobody)).rotation).toMatchObject({ state: "cancelled", phase: 1 });

  const back = await start(store, 2, 1);
  await fenced(store, []);
  expect(await codeOf(() => cancel(context, nobody))).toBe("refused");
  expect(await newestRotation(store)).toMatchObject({ _id: back._id, state: "running", open: true, phase: 1 });
  // What was read before the fence was lifted cancels nothing either.
  expect(await cancelRotation(store, AUDITOR, back)).toBeUndefined();
  await advance(store, back, 2);
  expect((await cancel(context, nobody)).rotation).toMatchObject({ state: "cancelled", phase: 2 });
  await closeStore(store);
});

test("a cancel that was slow leaves the fence of whoever resumed the rotation", async () => {
  const store = await install();
  const two = await advance(store, await start(store, 1, 2), 2);
  const cancelled = there(await cancelRotation(store, AUDITOR, two));
  await store.db.collection("kek_rotations").updateOne({}, { $set: { "lease.owner": null } });
  there(await takeOver(store, { auditor: AUDITOR, seen: cancelled, owner: "other", leaseMs: 60_000, graceMs: 0 }));
  await fenced(store, [1]);
  await liftFenceOfCancelled({ store, auditor: AUDITOR }, 1, nobody);
  expect((await newestRotation(store))?.fence.versions).toEqual([1]);
  there(await cancelRotation(store, AUDITOR, there(await newestRotation(store))));
  await liftFenceOfCancelled({ store, auditor: AUDITOR }, 1, nobody);
  expect((await newestRotation(store))?.fence.versions).toEqual([]);
  await closeStore(store);
});

test("a repair that is cancelled where no write fence can be set waits for the writes that are on their way", async () => {
  const store = await install();
  const context = { store, auditor: AUDITOR, config: { fleet: { leaseMs: 600 } } } as Context;
  const first = await advance(store, await advance(store, await start(store, 1, 2), 2), 3);
  await fenced(store, [1]);
  there(await completeRotation(store, AUDITOR, heldOf(first)));
  // A moderate validator that a document breaks cannot be merged with a write fence.
  await store.db.createCollection("secrets", {
    validator: { owner: { $type: "string" } },
    validationLevel: "moderate",
  });
  await store.db.collection("secrets").insertOne({}, { bypassDocumentValidation: true });
  await store.db
    .collection<{ _id: string; collection: string; path: string }>("kek_fields")
    .insertOne({ _id: "secrets:value", collection: "secrets", path: "value" });

  const wanted = { from: 1, to: 2, owner: "me", leaseMs: 60_000, graceMs: 0, replaces: undefined, fields: [] };
  there(await startRotation(store, AUDITOR, { ...wanted, repairs: true }));
  await fenced(store, []);
  const told: string[] = [];
  const began = performance.now();
  const { rotation } = await cancel(context, (message) => told.push(message));
  expect(rotation).toMatchObject({ state: "cancelled", fence: { versions: [1] } });
  expect(told.join("\n")).toContain(
    "no write fence on secrets (documents break its moderate validator): waiting 1.6 s",
  );
  // A lease of 600 ms, and the shortest limit of a batch.
  expect(performance.now() - began).toBeGreaterThan(1600);
  await closeStore(store);
});
