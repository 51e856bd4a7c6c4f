import { expect, test } from "bun:test";
import { openFieldEncryption } from "../../src/index.ts";
import { library, libraryConfig, versionsOf } from "../harness/library.ts";
import { run, stop, until } from "../harness/program.ts";
import {
  CALM,
  events,
  kek,
  movedTo,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
  versionStates,
  wrapsAt,
} from "../harness/schedule.ts";

/** The reverse rotation, from a rotation that is under way, cancelled, or complete. */

const BACK = ["--to-version=1", "--from-version=2"];

test("reversed from a cancelled phase 2: every record at v1 again, the first rotation reverted", async () => {
  const install = await seededInstall(300, { leaseMs: 3000, evictionMs: 6000 });
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  const verified = await run(["kek", "verify"], install.variables([1, 2], 2));
  expect([verified.code, verified.stdout]).toEqual([
    0,
    expect.stringContaining("\nnote: rotation 1 → 2 is in phase 2\nhealthy: "),
  ]);
  // In good hands it is left alone.
  const meanwhile = rotating(install, ...BACK);
  const refused = await meanwhile.exited;
  expect(refused.code).toBe(3);
  expect(refused.stderr).toContain("kek rotate --cancel");
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect((await rotate.exited).code).toBe(5);
  const moved = (await wrapsAt(install, 2)).size;
  const untouched = await wrapsAt(install, 1);
  expect(untouched.size).toBeGreaterThan(0);
  // A bare --to-version=1 is too little to go back by: it says which flag means it.
  const bare = await rotating(install, "--to-version=1").exited;
  expect(bare.code).toBe(3);
  expect(bare.json.error.hint).toContain("--to-version=1 --from-version=2");

  const back = await rotating(install, ...BACK).exited;
  expect(back.code).toBe(0);
  expect(back.json).toMatchObject({ rotation: 2, from: 2, to: 1, state: "completed", rewrapped: moved });
  const rotations = await install.db.collection("kek_rotations").find().sort({ _id: 1 }).toArray();
  expect(rotations).toMatchObject([
    { _id: 1, state: "reverted", from: 1, to: 2 },
    { _id: 2, state: "completed", from: 2, to: 1, reverses: 1 },
  ]);
  expect(rotations.some((doc) => "open" in doc)).toBe(false);
  expect(await versionsOf(install)).toEqual({ "1": 300 });
  const after = await wrapsAt(install, 1);
  for (const [id, wrap] of untouched) expect(after.get(id)).toBe(wrap);
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "retired" });
  expect(await events(install, "rotation.reverted")).toMatchObject([{ rotation: 1, by: 2 }]);
  // Each version is in its state since it came into it this time, not since it was in another one.
  const { versions } = (await kek(install, "status")).json;
  const ended = rotations[1]?.["ended_at"].getTime();
  for (const { since } of versions) expect(Math.abs(Date.parse(since) - ended)).toBeLessThan(1000);
  await proveAll(install, [1], 300);
  await stop(...fleet);
});

test("reversed after the coordinator died in phase 2, without a cancel", async () => {
  const install = await seededInstall(300);
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  rotate.kill("SIGKILL");
  await rotate.exited;
  const back = await rotating(install, ...BACK).exited;
  expect(back.code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "1": 300 });
  expect(await install.db.collection("kek_rotations").findOne({ _id: 1 as never })).toMatchObject({
    state: "reverted",
  });
  await proveAll(install, [1], 300);
  await stop(...fleet);
});

test("a reverse rotation cancelled in its phase 1 leaves both versions readable, and both ways open", async () => {
  const install = await seededInstall(300, CALM);
  const [a, b] = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  rotate.kill("SIGINT");
  expect((await rotate.exited).code).toBe(5);
  const before = await versionsOf(install);
  b.kill("SIGSTOP");
  const back = rotating(install, ...BACK);
  await back.says(/phase 1: waiting for \d: .*b \(/);
  const cancelled = await run(["kek", "rotate", "--cancel"], install.variables([1, 2], 2));
  expect(cancelled.code).toBe(0);
  const told = await back.exited;
  b.kill("SIGCONT");
  expect(await newestRotation(install)).toMatchObject({ _id: 1, state: "cancelled", phase: 2, open: true });
  expect((await kek(install, "status")).json).toMatchObject({ phase: 2, write_version: 2 });
  expect(await versionsOf(install)).toEqual(before);
  const process = await library(install, [1, 2], 2, "writer");
  expect(process.writeVersion).toBe(2);
  await process.close();
  await proveAll(install, [1, 2], 300);

  const forward = await rotating(install, "--to-version=2").exited;
  expect(forward.code).toBe(0);
  expect(forward.json).toMatchObject({ rotation: 1, rewrapped: before["1"] });
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  await proveAll(install, [2], 300);
  await stop(a, b);
  // What was said: the command that was cancelled says so, and nobody says that all is as before.
  expect(told.code).toBe(5);
  expect(told.stderr).toContain("error: the rotation 2 → 1 was cancelled in phase 1");
  for (const said of [cancelled.stdout, told.stderr]) {
    expect(said).not.toContain("nothing has changed");
    expect(said).toContain("certautopilot kek rotate --to-version=2");
  }
});

test("reversed from complete, while processes that declare v2 go on", async () => {
  const install = await seededInstall(100, CALM);
  const fleet = await serveAll(install, "a", "b");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  const back = await rotating(install, ...BACK).exited;
  expect(back.code).toBe(0);
  expect(back.json).toMatchObject({ from: 2, to: 1, state: "completed", rewrapped: 100 });
  expect(await versionsOf(install)).toEqual({ "1": 100 });
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "retired" });
  const states = await install.db.collection("kek_rotations").find().sort({ _id: 1 }).toArray();
  expect(states.map((doc) => doc["state"])).toEqual(["completed", "completed"]);
  await proveAll(install, [1], 100);
  await stop(...fleet);
});

test("live traffic through a cancel and the reverse rotation: no read and no write fails", async () => {
  const COUNT = 200;
  const install = await seededInstall(COUNT, CALM);
  const fleet = await serveAll(install, "a");
  const service = await openFieldEncryption({ ...libraryConfig(install, [1, 2], 2, "service"), fleet: CALM });
  const secrets = install.db.collection<{ _id: number; value: unknown }>("secrets");
  const failures: unknown[] = [];
  const written = new Set<number>();
  let reads = 0;
  let over = false;
  const each = async (work: (id: number) => Promise<void>) => {
    for (let turn = 0; !over; turn += 1) {
      await work((turn * 7) % COUNT).catch((thrown) => failures.push(thrown));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const write = async (id: number) => {
    await service.write(async () => {
      const value = await service.encrypt(`secret ${id}`, { collection: "secrets", id, field: "value" });
      await secrets.replaceOne({ _id: id }, { value });
      written.add(Number(value.kek_version));
    });
  };
  const read = async (id: number) => {
    const value = (await secrets.findOne({ _id: id }))?.value;
    const opened = await service.decrypt(value, { collection: "secrets", id, field: "value" });
    if (opened.toString() !== `secret ${id}`) throw new Error(`record ${id} holds another secret`);
    reads += 1;
  };
  const traffic = [each(write), each(read)];
  const rotate = rotating(install, "--to-version=2", "--max-rate=50", "--batch-size=5");
  await until("the service writes under v2", async () => service.writeVersion === 2);
  rotate.kill("SIGINT");
  expect((await rotate.exited).code).toBe(5);
  const back = await rotating(install, ...BACK).exited;
  expect(back.code).toBe(0);
  const there = await rotating(install, "--to-version=2", "--from-version=1").exited;
  expect(there.code).toBe(0);
  over = true;
  await Promise.all(traffic);
  expect(failures).toEqual([]);
  expect(reads).toBeGreaterThan(50);
  expect([...written].sort()).toEqual([1, 2]);
  await service.close();
  expect(await versionsOf(install)).toEqual({ "2": COUNT });
  await proveAll(install, [2], COUNT);
  await stop(...fleet);
});
