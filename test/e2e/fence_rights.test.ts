import { expect, test } from "bun:test";
import { FenceGuard } from "../../src/fleet/fence_guard.ts";
import { unfencedCollections } from "../../src/fleet/fence_keeper.ts";
import { readFields } from "../../src/store/fields.ts";
import { readState } from "../../src/store/state.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { versionsOf } from "../harness/library.ts";
import { guardedMongod } from "../harness/other_mongod.ts";
import { kekHex } from "../harness/program.ts";
import { events, kek, newestRotation, rotating, seededInstall } from "../harness/schedule.ts";

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

  // A process that may not mend it does not say that it has.
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
  const weakling = new FenceGuard(weak, auditor, log, 0);
  for (let look = 0; look < 4; look += 1) await weakling.look(await readState(weak));
  expect(warned).toEqual(["secrets is not fenced: MongoDB does not permit collMod to this process"]);
  expect(await events(install, "fence.mended")).toEqual([]);
  expect((await newestRotation(install))["fence"]).toEqual(fence);
  const verified = await kek(install, "verify");
  expect([verified.code, verified.stdout]).toEqual([
    3,
    expect.stringContaining("secrets is not fenced against KEK version 1"),
  ]);

  const guard = new FenceGuard(strong, auditor, log, 0);
  for (let look = 0; look < 2; look += 1) await guard.look(await readState(strong));
  expect(await unfencedCollections(strong, await readFields(strong), 1)).toEqual([]);
  expect(await events(install, "fence.mended")).toHaveLength(1);
  await Promise.all([closeStore(weak), closeStore(strong)]);

  // A way back stops before anything would be rejected, and goes on when it may.
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
