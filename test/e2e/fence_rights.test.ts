import { expect, test } from "bun:test";
import { WriteFenceGuard } from "../../src/fleet/write_fence_guard.ts";
import { unfencedCollections } from "../../src/fleet/write_fence_setter.ts";
import { readFields } from "../../src/store/fields.ts";
import { readState } from "../../src/store/state.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { versionsOf } from "../harness/library.ts";
import { guardedMongod } from "../harness/other_mongod.ts";
import { kekHex, start } from "../harness/program.ts";
import {
  endLease,
  events,
  frozenState,
  kek,
  movedTo,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  versionStates,
  withoutBackupCheck,
} from "../harness/schedule.ts";

/** Between two counts a rotation waits for the lease and a batch's limit: long enough for a busy machine, and no longer. */
const UNHURRIED = { leaseMs: 4000, evictionMs: 8000 };

/** The fence where a user of MongoDB may not set it (`collMod`), and others have. */

test("who may not set the fence says so, leaves it to others, and begins nothing that it would reject", async () => {
  const password = kekHex().slice(0, 20);
  const guarded = await guardedMongod("unused", password);
  const admin = guarded.root.db("admin");
  await admin.command({ grantRolesToUser: "app", roles: ["root"] });
  const install = await seededInstall(60, {}, guarded.uri("app", password));
  const role = (name: string) => ({ role: name, db: install.name });
  await admin.command({ createUser: "writer", pwd: password, roles: [role("readWrite")] });
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);

  // A process that may not repair it does not say that it has.
  const [weak, strong] = await Promise.all(
    ["writer", "app"].map((user) =>
      openStore({ uri: guarded.uri(user, password), name: install.name }, { appName: "test" }),
    ),
  );
  if (weak === undefined || strong === undefined) throw new Error("no stores");
  const auditor = { secret: "audit-secret-of-the-tests", actor: "test", sinks: [] };
  const warned: string[] = [];
  const log = { info: () => undefined, warn: (message: string) => warned.push(message) } as never;
  const { fence } = await newestRotation(install);
  await install.db.command({ collMod: "secrets", validator: {} });
  const weakling = new WriteFenceGuard(weak, auditor, log, 0);
  for (let look = 0; look < 4; look += 1) await weakling.look(await readState(weak));
  expect(warned).toEqual(["secrets is not fenced: MongoDB does not permit collMod to this process"]);
  expect(await events(install, "fence.mended")).toEqual([]);
  expect((await newestRotation(install))["fence"]).toEqual(fence);
  const verified = await kek(install, "verify");
  expect([verified.code, verified.stdout]).toEqual([
    3,
    expect.stringContaining("secrets is not fenced against KEK version 1"),
  ]);

  const guard = new WriteFenceGuard(strong, auditor, log, 0);
  for (let look = 0; look < 2; look += 1) await guard.look(await readState(strong));
  expect(await unfencedCollections(strong, await readFields(strong), 1)).toEqual([]);
  expect(await events(install, "fence.mended")).toHaveLength(1);
  await Promise.all([closeStore(weak), closeStore(strong)]);

  // A reverse rotation stops before anything would be rejected, and continues when it may.
  await admin.command({ revokeRolesFromUser: "app", roles: ["root"] });
  await admin.command({ grantRolesToUser: "app", roles: [role("readWrite")] });
  const back = ["--to-version=1", "--from-version=2"];
  const refused = await rotating(install, ...back).exited;
  expect([refused.code, (refused.json as { error: { code: string } }).error.code]).toEqual([9, "mongodb_refused"]);
  expect(refused.stderr).toContain("the fence against KEK version 1 still stands on secrets");
  expect(refused.stderr).not.toContain("is lifted");
  expect(await newestRotation(install)).toMatchObject({ phase: 1, state: "running", fence: { versions: [1] } });
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "2": 60 });

  await admin.command({ grantRolesToUser: "app", roles: [role("dbAdmin")] });
  expect((await rotating(install, ...back).exited).code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "1": 60 });
  // For what is dropped at the end.
  await admin.command({ grantRolesToUser: "app", roles: ["root"] });
});

test("readWrite alone does everything but set the fence: forward, back, cancel, resume, remove", async () => {
  const password = kekHex().slice(0, 20);
  const guarded = await guardedMongod("unused", password);
  const admin = guarded.root.db("admin");
  // The test makes and drops the database; the program has its own user.
  await admin.command({ grantRolesToUser: "app", roles: ["root"] });
  const install = await seededInstall(60, UNHURRIED, guarded.uri("app", password));
  await admin.command({ createUser: "writer", pwd: password, roles: [{ role: "readWrite", db: install.name }] });
  const uri = guarded.uri("writer", password);
  const asWriter = (versions: number[], ...argv: string[]) =>
    start(["kek", ...argv, "--json"], install.variables(versions, 2, { CERTAUTOPILOT_DATABASE_URI: uri }));
  const rotate = (...argv: string[]) => asWriter([1, 2], ...withoutBackupCheck(["rotate", ...argv])).exited;
  const unfenced = (versions: number[]) => ({
    state: "completed",
    fence: { versions, unfenced: ["secrets"], collections: [{ collection: "secrets" }] },
  });
  const done = { state: "completed", fenced: false, rewrapped: 60 };

  const forward = await rotate("--to-version=2");
  expect(forward.stderr).toContain("could not be set on secrets (MongoDB does not permit collMod)");
  expect(forward).toMatchObject({ code: 0, json: done });
  expect(await newestRotation(install)).toMatchObject(unfenced([1]));
  // The two counts are apart by lease and batch limit.
  const [two, three] = await install.db
    .collection("audit_log")
    .find({ event: "rotation.phase" })
    .sort({ seq: 1 })
    .toArray();
  expect(three?.["at"] - two?.["at"]).toBeGreaterThan(5333);
  expect((await events(install, "fence.set")).at(-1)).toMatchObject({ collections: [], unfenced: ["secrets"] });

  expect(await rotate("--to-version=1", "--from-version=2")).toMatchObject({ code: 0, json: done });
  expect(await newestRotation(install)).toMatchObject(unfenced([2]));
  expect(await versionsOf(install)).toEqual({ "1": 60 });

  // Cancelled in the middle, then resumed: `--from-version` because version 2 is a retired one by now.
  const again = ["--to-version=2", "--from-version=1"];
  const slow = asWriter([1, 2], "rotate", ...again, ...SLOWLY);
  await movedTo(install, 2, 10);
  expect((await asWriter([1, 2], "rotate", "--cancel").exited).code).toBe(0);
  expect((await slow.exited).code).toBe(5);
  await endLease(install);
  expect(await rotate(...again)).toMatchObject({ code: 0, json: { state: "completed", fenced: false } });
  expect(await versionsOf(install)).toEqual({ "2": 60 });
  expect(await newestRotation(install)).toMatchObject(unfenced([1]));

  const removed = await asWriter([2], "remove", "--version=1", "--yes").exited;
  expect(removed.stderr).toContain("the records are counted twice, 5 s apart");
  expect(removed).toMatchObject({ code: 0, json: { outcome: "destroyed" } });
  expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
  await proveAll(install, [2], 60);
});

test("a user that lost the right rotates on without a new fence; the old one stays, and nobody complains of it", async () => {
  const password = kekHex().slice(0, 20);
  const guarded = await guardedMongod("unused", password);
  const admin = guarded.root.db("admin");
  await admin.command({ grantRolesToUser: "app", roles: ["root"] });
  const install = await seededInstall(20, UNHURRIED, guarded.uri("app", password));
  const roles = ["readWrite", "dbAdmin"].map((role) => ({ role, db: install.name }));
  await admin.command({ createUser: "operator", pwd: password, roles });
  const uri = guarded.uri("operator", password);
  const rotate = (to: number) =>
    start(
      ["kek", "rotate", "--json", "--no-backup-check", `--to-version=${to}`],
      install.variables([1, 2, 3], to, { CERTAUTOPILOT_DATABASE_URI: uri }),
    ).exited;
  expect((await rotate(2)).json).toMatchObject({ fenced: true });
  await admin.command({ revokeRolesFromUser: "operator", roles: roles.slice(1) });
  expect(await rotate(3)).toMatchObject({ code: 0, json: { state: "completed", fenced: false } });
  expect(await versionsOf(install)).toEqual({ "3": 20 });

  const store = await openStore({ uri, name: install.name }, { appName: "test" });
  const fields = await readFields(store);
  expect(await unfencedCollections(store, fields, 1)).toEqual([]);
  expect(await unfencedCollections(store, fields, 2)).toEqual(["secrets"]);
  const before = await frozenState(install);
  const warned: string[] = [];
  const log = { info: () => undefined, warn: (message: string) => warned.push(message) } as never;
  const guard = new WriteFenceGuard(store, { secret: "audit-secret-of-the-tests", actor: "test", sinks: [] }, log, 0);
  for (let look = 0; look < 4; look += 1) await guard.look(await readState(store));
  expect(warned).toEqual([]);
  expect(await frozenState(install)).toBe(before);
  await closeStore(store);
});
