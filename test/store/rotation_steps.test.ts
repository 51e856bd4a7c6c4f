import { expect, test } from "bun:test";
import { ensureCollections } from "../../src/fleet/open_install.ts";
import { type Auditor, verifyChain } from "../../src/store/audit_log.ts";
import { renewLease, takeOver } from "../../src/store/rotation_lease.ts";
import { advancePhase, cancelRotation, completeRotation, startRotation } from "../../src/store/rotation_steps.ts";
import { type Held, newestRotation } from "../../src/store/rotations.ts";
import { closeStore, openStore, type Store } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** Each step of a rotation against a real mongod: what it is conditional on, and that it leaves nothing half done. */

const AUDITOR: Auditor = { secret: "s", actor: "test", sinks: [] };
const GRACE = 1000;

async function install(states: Record<number, string>): Promise<Store> {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  await db
    .collection("kek_versions")
    .insertMany(
      Object.entries(states).map(([version, state]) => ({ _id: Number(version) as never, state, provider: "env" })),
    );
  return store;
}

const start = (store: Store, from: number, to: number, replaces?: { _id: number; epoch: number }) =>
  startRotation(store, AUDITOR, { from, to, owner: "me", leaseMs: 60_000, graceMs: GRACE, replaces, fields: [] });
const held = (doc: { _id: number; epoch: number; lease: { token: number } | null }): Held => ({
  rotation: doc._id,
  epoch: doc.epoch,
  token: doc.lease?.token ?? 0,
});

test("a rotation starts only from the active version, to one that lives, and once", async () => {
  const store = await install({ 1: "retired", 2: "active", 3: "staged", 4: "destroyed" });
  expect(await start(store, 1, 3)).toBeUndefined();
  expect(await start(store, 3, 2)).toBeUndefined();
  expect(await start(store, 2, 4)).toBeUndefined();
  expect(await start(store, 2, 9)).toBeUndefined();
  expect(await newestRotation(store)).toBeUndefined();

  const all = await Promise.all(Array.from({ length: 8 }, () => start(store, 2, 3)));
  expect(all.filter((doc) => doc !== undefined)).toHaveLength(1);
  expect((await verifyChain(store, "s")).entries).toBe(1);
  await closeStore(store);
});

test("a phase changes by compare-and-set: lease token, epoch, state and order", async () => {
  const store = await install({ 1: "active", 2: "staged" });
  const doc = await start(store, 1, 2);
  if (doc === undefined) throw new Error("not started");
  expect(await advancePhase(store, AUDITOR, { ...held(doc), token: 2 }, 2)).toBeUndefined();
  expect(await advancePhase(store, AUDITOR, { ...held(doc), epoch: 9 }, 2)).toBeUndefined();
  expect(await advancePhase(store, AUDITOR, held(doc), 3)).toBeUndefined();
  expect(await completeRotation(store, AUDITOR, held(doc))).toBeUndefined();
  const two = await advancePhase(store, AUDITOR, held(doc), 2);
  expect(two).toMatchObject({ phase: 2, epoch: doc.epoch + 1 });
  expect(await advancePhase(store, AUDITOR, held(doc), 2)).toBeUndefined();
  const three = await advancePhase(store, AUDITOR, held(two as typeof doc), 3);
  expect(await cancelRotation(store, AUDITOR, three as typeof doc)).toBeUndefined();
  expect(await completeRotation(store, AUDITOR, held(three as typeof doc))).toMatchObject({ state: "completed" });
  const states = await store.db.collection("kek_versions").find().sort({ _id: 1 }).toArray();
  expect(states.map((version) => version["state"])).toEqual(["retired", "active"]);
  await closeStore(store);
});

test("a reverse rotation that may not begin leaves the unfinished rotation as it was", async () => {
  const store = await install({ 1: "active", 2: "staged" });
  const doc = await start(store, 1, 2);
  const two = await advancePhase(store, AUDITOR, held(doc as NonNullable<typeof doc>), 2);
  const cancelled = await cancelRotation(store, AUDITOR, two as NonNullable<typeof doc>);
  if (cancelled === undefined) throw new Error("not cancelled");
  // Its lease has not run out, and then its target is gone: neither may close it.
  expect(await start(store, 2, 1, cancelled)).toBeUndefined();
  await store.db.collection("kek_rotations").updateOne({}, { $set: { "lease.owner": null } });
  await store.db.collection("kek_versions").updateOne({ _id: 1 as never }, { $set: { state: "destroyed" } });
  expect(await start(store, 2, 1, cancelled)).toBeUndefined();
  expect(await newestRotation(store)).toMatchObject({ _id: 1, state: "cancelled", open: true, phase: 2 });
  await store.db.collection("kek_versions").updateOne({ _id: 1 as never }, { $set: { state: "active" } });
  const back = await start(store, 2, 1, cancelled);
  expect(back).toMatchObject({ from: 2, to: 1, phase: 1, reverses: 1 });
  // Cancelled at once, it gives the place back to the rotation it came from: records are at both versions.
  expect(await cancelRotation(store, AUDITOR, back as NonNullable<typeof doc>)).toMatchObject({ state: "cancelled" });
  expect(await newestRotation(store)).toMatchObject({ _id: 1, state: "cancelled", open: true, phase: 2 });
  await closeStore(store);
});

test("a lease that was watched is taken over while it is exactly that one, and never once it was renewed", async () => {
  const store = await install({ 1: "active", 2: "staged" });
  const doc = await start(store, 1, 2);
  if (doc?.lease == null) throw new Error("not started");
  const { token, expires_at } = doc.lease;
  const watched = { rotation: doc._id, token, expires_at };
  const take = (lease: typeof watched) =>
    takeOver(store, { auditor: AUDITOR, seen: doc, owner: "you", leaseMs: 60_000, graceMs: GRACE, watched: lease });
  const later = new Date(expires_at.getTime() + 1);
  for (const other of [{ rotation: 2 }, { token: token + 1 }, { expires_at: later }])
    expect(await take({ ...watched, ...other })).toBeUndefined();
  await renewLease(store, held(doc), 120_000);
  expect(await take(watched)).toBeUndefined();
  const renewed = (await newestRotation(store))?.lease?.expires_at as Date;
  expect(await take({ ...watched, expires_at: renewed })).toMatchObject({ lease: { owner: "you", token: 2 } });
  await closeStore(store);
});

test("a lease is taken over only after it ran out and its last batch's time as well", async () => {
  const store = await install({ 1: "active", 2: "staged" });
  const doc = await start(store, 1, 2);
  if (doc === undefined) throw new Error("not started");
  const ago = (ms: number) =>
    store.db
      .collection("kek_rotations")
      .updateOne({}, [{ $set: { "lease.expires_at": { $subtract: ["$$NOW", ms] } } }]);
  expect(
    await takeOver(store, { auditor: AUDITOR, seen: doc, owner: "you", leaseMs: 60_000, graceMs: GRACE }),
  ).toBeUndefined();
  await ago(GRACE / 2);
  expect(
    await takeOver(store, { auditor: AUDITOR, seen: doc, owner: "you", leaseMs: 60_000, graceMs: GRACE }),
  ).toBeUndefined();
  await ago(GRACE * 2);
  expect(
    await takeOver(store, { auditor: AUDITOR, seen: doc, owner: "you", leaseMs: 60_000, graceMs: GRACE }),
  ).toMatchObject({
    lease: { owner: "you", token: 2 },
    epoch: doc.epoch + 1,
  });
  // The one that was late changes nothing any more.
  expect(await advancePhase(store, AUDITOR, held(doc), 2)).toBeUndefined();
  await closeStore(store);
});

test("nothing is appended under another audit secret, and its change is not made", async () => {
  const store = await install({ 1: "active", 2: "staged" });
  const doc = await start(store, 1, 2);
  if (doc === undefined) throw new Error("not started");
  const advance = advancePhase(store, { ...AUDITOR, secret: "" }, held(doc), 2);
  expect(advance).rejects.toThrow("CERTAUTOPILOT_AUDIT_SECRET is not set");
  await advance.catch(() => undefined);
  expect(await newestRotation(store)).toMatchObject({ phase: 1, epoch: doc.epoch });
  expect(await verifyChain(store, "s")).toMatchObject({ entries: 1, faults: [] });
  await closeStore(store);
});
