import { expect, test } from "bun:test";
import { take } from "../harness/crash.ts";
import { versionsOf } from "../harness/library.ts";
import { kekHex, type Ran, run, start, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { expectSilentAbout } from "../harness/refusal.ts";
import { events, kek, proveAll, seededInstall, serveAll, versionStates } from "../harness/schedule.ts";

/** Many at once: MongoDB decides who is first, and the others find out in good order. */

// A machine that starts twenty programs at once is slow: the leases are longer than that takes.
const PATIENT = { beatMs: 500, leaseMs: 6000, evictionMs: 12_000, drainMs: 300 };
const times = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

/** One `error:` and one `hint:` line close what a refused command says, and nothing else is like them. */
function expectGoodOrder(ran: Ran): void {
  expect(ran.stderr).toMatch(/(^|\n)error: [^\n]+\nhint: [^\n]+\n$/);
  expect(ran.stderr.match(/^(error|hint): /gm)).toEqual(["error: ", "hint: "]);
  expect(ran.stderr).not.toMatch(/\n\s+at /);
  expect(Object.keys(ran.json)).toEqual(["error"]);
}

async function expectWhole(install: TestInstall): Promise<void> {
  const audit = await run(["audit", "verify", "--json"], install.variables([1], 1));
  expect([audit.code, audit.json.whole, audit.json.faults]).toEqual([0, true, []]);
}

test("of 20 rotations started at once one runs and completes, 19 are refused, every record is right", async () => {
  const install = await seededInstall(600, PATIENT);
  const fleet = await serveAll(install, "a", "b");
  const all = await Promise.all(times(20, () => kek(install, "rotate", "--to-version=2", "--batch-size=50")));

  const codes = all.map(({ code }) => code).sort();
  expect(codes).toEqual([0, ...times(19, () => 3)]);
  const [winner] = all.filter(({ code }) => code === 0);
  expect(winner?.json).toMatchObject({ from: 1, to: 2, state: "completed", rewrapped: 600 });
  for (const ran of all) expectSilentAbout(ran, Object.values(install.keks));
  for (const loser of all.filter(({ code }) => code === 3)) {
    expectGoodOrder(loser);
    expect(loser.json.error.message).toMatch(
      /rotation 1 → 2 is already run by|KEK version 2 is already the active one/,
    );
  }

  expect(await events(install, "rotation.started")).toEqual([{ rotation: 1, from: 1, to: 2 }]);
  expect(await events(install, "rotation.completed")).toEqual([{ rotation: 1, from: 1, to: 2 }]);
  for (const event of ["rotation.resumed", "rotation.cancelled", "process.evicted", "record.failed"]) {
    expect([event, await events(install, event)]).toEqual([event, []]);
  }
  expect((await events(install, "rotation.phase")).map(({ phase }) => phase)).toEqual([2, 3]);
  const rotations = await install.db.collection("kek_rotations").find().toArray();
  expect(rotations.map((doc) => [doc["state"], doc["phase"], "open" in doc])).toEqual([["completed", 3, false]]);
  expect(await versionStates(install)).toEqual({ 1: "retired", 2: "active" });
  expect(await versionsOf(install)).toEqual({ 2: 600 });
  await stop(...fleet);
  await proveAll(install, [2], 600);
});

test("a command that was to go on with a rotation begins none when that was cancelled meanwhile", async () => {
  const install = await seededInstall(20, PATIENT);
  const words = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--yes"];
  await take({ words, dies: "rotation.acquired" }, install.variables([1, 2], 2));
  const next = start([...words, "--json"], install.variables([1, 2], 2));
  await next.says("waiting up to");
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  // It joins after that, and no preflight has asked it.
  const stranger = await install.serve("stranger", [1], 1);
  const ran = await next.exited;
  expectGoodOrder(ran);
  expect([ran.code, ran.json.error.code]).toEqual([3, "refused"]);
  expect(ran.stderr).toContain("the open rotation 1 → 2 came to its end, or was cancelled");
  expect(await install.db.collection("kek_rotations").countDocuments()).toBe(1);
  await stop(stranger);
});

test("a renewal that MongoDB had in hand when its coordinator died keeps nobody from going on", async () => {
  const install = await seededInstall(20);
  const words = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--yes"];
  await take({ words, dies: "rotation.acquired" }, install.variables([1, 2], 2));
  const next = start([...words, "--json"], install.variables([1, 2], 2));
  await next.says("waiting up to");
  const renewed = [{ $set: { "lease.expires_at": { $add: ["$lease.expires_at", 100] } } }];
  await install.db.collection("kek_rotations").updateOne({ open: true }, renewed);
  const ran = await next.exited;
  expect({ code: ran.code, stderr: ran.stderr }).toMatchObject({ code: 0 });
  expect(await versionsOf(install)).toEqual({ 2: 20 });
});

test("10 processes started at once on a fresh database make one install, one version, one chain", async () => {
  const install = await testInstall(PATIENT);
  const names = times(10, (index) => `p${index}`);
  const fleet = await Promise.all(names.map((name) => install.serve(name, [1], 1)));

  const locks = await install.db.collection("kek_install").find().toArray();
  expect(locks).toMatchObject([{ _id: "kek_install", provider: "env", locked_by: "service" }]);
  expect(await versionStates(install)).toEqual({ 1: "active" });
  const [lock] = locks;
  const id = lock?.["install_id"] as string;
  expect(await events(install, "install.locked")).toEqual([{ provider: "env", install_id: id, locked_by: "service" }]);
  expect(await events(install, "version.staged")).toEqual([{ version: 1 }]);
  expect(await events(install, "version.activated")).toEqual([{ version: 1 }]);
  expect(await install.db.collection("audit_log").countDocuments()).toBe(3);
  await expectWhole(install);

  const roster = () => install.db.collection("process_heartbeats").find().sort({ instance_name: 1 }).toArray();
  await until("every process says what it writes", async () =>
    (await roster()).every((doc) => doc["write_version"] === 1),
  );
  const steady = { loaded: [1], write_version: 1, acked: { phase: 0 } };
  expect(await roster()).toMatchObject(names.map((instance_name) => ({ instance_name, ...steady })));
  const verified = await kek(install, "verify");
  expect([verified.code, verified.json.problems]).toEqual([0, []]);
  for (const { stderr } of fleet) expect(stderr).toMatch(/^p\d \(api, pid \d+\) is ready on [^\n]*KEK version 1\n$/);
  await stop(...fleet);
  expect(await roster()).toEqual([]);
});

test("two hosts with other bytes for version 1, both on a fresh database at once: one of them serves", async () => {
  const install = await testInstall(PATIENT);
  const other = { CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: kekHex() };
  const serving = times(6, (index) => {
    const over = { CERTAUTOPILOT_INSTANCE_NAME: `p${index}`, ...(index % 2 === 0 ? {} : other) };
    return start(["serve", "--json"], install.variables([1], 1, over));
  });
  const ended = new Map<number, Ran>();
  for (const [index, running] of serving.entries()) void running.exited.then((ran) => ended.set(index, ran));
  await until("each serves or has ended", async () =>
    serving.every(({ stderr }, index) => ended.has(index) || stderr.includes(" is ready on ")),
  );
  const refused = [...ended.keys()].sort();
  expect([
    [0, 2, 4],
    [1, 3, 5],
  ]).toContainEqual(refused);
  for (const ran of ended.values()) {
    expect(ran.code).toBe(3);
    expectGoodOrder(ran);
    expect(ran.json.error).toMatchObject({ code: "key_mismatch", message: expect.stringMatching(/KEK version 1\b/) });
    expectSilentAbout(ran, [other.CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1, install.keks[1] as string]);
  }
  expect(await versionStates(install)).toEqual({ 1: "active" });
  expect(await install.db.collection("process_heartbeats").countDocuments()).toBe(3);
  await expectWhole(install);
  await stop(...serving);
});
