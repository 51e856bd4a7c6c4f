import { expect, test } from "bun:test";
import { ensureCollections } from "../../src/fleet/open_install.ts";
import { LeaseKeeper } from "../../src/rotation/lease_keeper.ts";
import { startRotation } from "../../src/store/rotation_steps.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** The coordinator's own idea of its lease is never longer than the server's. */

const AUDITOR = { secret: "s", actor: "test", sinks: [] };

async function rotationWithLease(leaseMs: number) {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  const versions = { 1: "active", 2: "staged" };
  const documents = Object.entries(versions).map(([version, state]) => ({ _id: Number(version) as never, state }));
  await db.collection("kek_versions").insertMany(documents);
  const wanted = { from: 1, to: 2, owner: "me", leaseMs, graceMs: 0, replaces: undefined, fields: [] };
  const doc = await startRotation(store, AUDITOR, wanted);
  if (doc === undefined) throw new Error("not started");
  return { store, doc };
}

test("a coordinator that comes to its lease when it has run out, as after a commit that took long, does nothing", async () => {
  const LEASE_MS = 300;
  const { store, doc } = await rotationWithLease(LEASE_MS);
  await new Promise((resolve) => setTimeout(resolve, LEASE_MS + 100));
  const keeper = new LeaseKeeper(store, doc, LEASE_MS);
  await keeper.start();
  expect(keeper.ended).toBe(true);
  expect(() => keeper.check()).toThrow("its lease ran out");
  await keeper.stop();
  await closeStore(store);
});

test("one that comes in time has renewed it before its first step", async () => {
  const { store, doc } = await rotationWithLease(60_000);
  const keeper = new LeaseKeeper(store, doc, 60_000);
  expect(keeper.ended).toBe(true);
  await keeper.start();
  keeper.check();
  expect(keeper.ended).toBe(false);
  await keeper.stop();
  await closeStore(store);
});
