import { expect, test } from "bun:test";
import { ensureCollections } from "../../src/fleet/open_install.ts";
import { WriteFenceGuard } from "../../src/fleet/write_fence_guard.ts";
import { rejectedWriteVersion, setWriteFence, unfencedCollections } from "../../src/fleet/write_fence_setter.ts";
import type { RotationDoc } from "../../src/protocol/documents.ts";
import { writeFenceClause } from "../../src/protocol/write_fence.ts";
import type { Auditor } from "../../src/store/audit_log.ts";
import { readFields, registerField } from "../../src/store/fields.ts";
import { heldFenceRecorder } from "../../src/store/rotation_records.ts";
import { advancePhase, completeRotation, startRotation } from "../../src/store/rotation_steps.ts";
import { type Held, newestRotation } from "../../src/store/rotations.ts";
import { closeStore, openStore, type Store } from "../../src/store/store.ts";
import { readValidators } from "../../src/store/validators.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** The guard over validators, in a process that slept while the fleet rotated on. */

const AUDITOR: Auditor = { secret: "s", actor: "test", sinks: [] };
const SILENT = { info: () => undefined, warn: () => undefined };

async function started(store: Store, from: number, to: number): Promise<RotationDoc> {
  const terms = { owner: "me", leaseMs: 60_000, graceMs: 1000, replaces: undefined, fields: [] };
  const doc = await startRotation(store, AUDITOR, { from, to, ...terms });
  if (doc === undefined) throw new Error("not started");
  return doc;
}

const heldOf = ({ _id, epoch, lease }: RotationDoc): Held => ({ rotation: _id, epoch, token: lease?.token ?? 0 });

/** Through the phases to the third, as a coordinator goes; the fence is up against what was left. */
async function settling(store: Store, from: number, to: number): Promise<Held> {
  const doc = await started(store, from, to);
  const two = (await advancePhase(store, AUDITOR, heldOf(doc), 2)) as RotationDoc;
  const record = heldFenceRecorder(store, AUDITOR, heldOf(two), two.fence);
  await setWriteFence(store, {
    fields: await readFields(store),
    before: two.fence,
    versions: [from],
    recorder: record,
    tell: () => undefined,
  });
  return heldOf((await advancePhase(store, AUDITOR, heldOf(two), 3)) as RotationDoc);
}

test("a process that slept through a rotation does not put an older fence in place of its fence", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  const versions = { 1: "active", 2: "staged" };
  const docs = Object.entries(versions).map(([version, state]) => ({ _id: Number(version) as never, state }));
  await db.collection("kek_versions").insertMany(docs);
  await registerField(store, { collection: "c", path: "f" }, "test");
  await completeRotation(store, AUDITOR, await settling(store, 1, 2));

  // What the process had read when it was stopped: a fence against 1, and a field that it is about to cover.
  const seen = await newestRotation(store);
  await registerField(store, { collection: "later", path: "f" }, "test");
  await settling(store, 2, 1);
  expect(await unfencedCollections(store, await readFields(store), 2)).toEqual([]);

  await new WriteFenceGuard(store, AUDITOR, SILENT as never, 0).look({ versions: [], rotation: seen });
  expect(await unfencedCollections(store, await readFields(store), 2)).toEqual([]);
  await db.collection("c").insertOne({ f: { kek_version: 1 } } as never);
  await closeStore(store);
});

test("a clause that an open rotation's record does not name is taken out of a collection that it does not name either", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  await ensureCollections(store);
  const versions = { 1: "active", 2: "staged" };
  const docs = Object.entries(versions).map(([version, state]) => ({ _id: Number(version) as never, state }));
  await db.collection("kek_versions").insertMany(docs);
  await registerField(store, { collection: "c", path: "f" }, "test");
  await started(store, 1, 2);
  const rules = { owner: { $exists: true } };
  await db.command({ collMod: "c", validator: { $and: [rules, writeFenceClause(["f"], [1, 3])] } });
  const fields = await readFields(store);
  expect((await rejectedWriteVersion(store, fields, 1)).map(({ collection }) => collection)).toEqual(["c"]);

  const warned: string[] = [];
  const log = { info: () => undefined, warn: (message: string) => warned.push(message) } as never;
  const guard = new WriteFenceGuard(store, AUDITOR, log, 0);
  const look = async () => guard.look({ versions: [], rotation: await newestRotation(store) });
  await look();
  expect(await rejectedWriteVersion(store, fields, 1)).toHaveLength(1);
  await look();
  expect((await readValidators(store, ["c"])).get("c")?.validator).toEqual(rules);
  await look();
  expect(warned).toEqual(["the validator of c had been changed: put back"]);
  const audited = await db.collection("audit_log").find({ event: "fence.mended" }).toArray();
  expect(audited.map(({ data }) => data)).toEqual([{ rotation: 1, collection: "c" }]);
  await closeStore(store);
});
