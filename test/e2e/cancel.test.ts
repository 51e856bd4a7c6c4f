import { expect, test } from "bun:test";
import { getPriority } from "node:os";
import { library, versionsOf } from "../harness/library.ts";
import { nicesOf } from "../harness/process_watch.ts";
import { type Ran, stop, type TestInstall } from "../harness/program.ts";
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

/** Cancelling a rotation, and the two next steps from there: resume, and reverse. */

/** One secret more, as a process of the fleet writes it now. @returns the version that it was written under. */
async function writeOne(install: TestInstall, id: number): Promise<number> {
  const process = await library(install, [1, 2], 2, `writer-${id}`);
  const value = await process.encrypt(`secret ${id}`, { collection: "secrets", id, field: "value" });
  await install.db.collection("secrets").insertOne({ _id: id as never, value });
  await process.close();
  return Number(value.kek_version);
}

function refusedWithHint(ran: Ran, message: string, hint: string): void {
  expect(ran.code).toBe(3);
  expect(ran.stderr).toMatch(/^error: .+\nhint: .+\n$/);
  expect(ran.json.error.message).toContain(message);
  expect(ran.json.error.hint).toContain(hint);
}

test("nothing to cancel is exit 3, before and after a rotation", async () => {
  const install = await seededInstall(20, CALM);
  const fleet = await serveAll(install, "a");
  refusedWithHint(await kek(install, "rotate", "--cancel"), "nothing to cancel", "kek status");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  refusedWithHint(await kek(install, "rotate", "--cancel"), "nothing to cancel", "kek status");
  expect(await events(install, "rotation.cancelled")).toEqual([]);
  await proveAll(install, [2], 20);
  await stop(...fleet);
});

test("cancelled from another shell in phase 1: steady again, exit 5, and it can be started again", async () => {
  const install = await seededInstall(40, CALM);
  const [a, b] = await serveAll(install, "a", "b");
  b.kill("SIGSTOP");
  const rotate = rotating(install, "--to-version=2");
  await rotate.says(/phase 1: waiting for \d: .*b \(/);
  const cancelled = await kek(install, "rotate", "--cancel");
  expect(cancelled.code).toBe(0);
  expect(cancelled.json).toMatchObject({ cancelled: 1, from: 1, to: 2, phase: 1 });
  const ran = await rotate.exited;
  expect(ran.code).toBe(5);
  expect(ran.json.error.code).toBe("cancelled");
  b.kill("SIGCONT");
  const status = await kek(install, "status");
  expect(status.json).toMatchObject({ phase: 0, write_version: 1, rotation: null, history: [{ state: "cancelled" }] });
  expect(await versionsOf(install)).toEqual({ "1": 40 });
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  expect(await writeOne(install, 40)).toBe(1);
  await proveAll(install, [1], 41);
  expect((await rotating(install, "--to-version=2").exited).json).toMatchObject({ rotation: 2, rewrapped: 41 });
  await proveAll(install, [2], 41);
  await stop(a, b);
});

test("cancelled in phase 2: both versions readable, new writes at v2; resume does nothing twice", async () => {
  const install = await seededInstall(400, CALM);
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  const cancelled = await kek(install, "rotate", "--cancel");
  expect(cancelled.code).toBe(0);
  expect(cancelled.json).toMatchObject({ cancelled: 1, phase: 2 });
  const ran = await rotate.exited;
  expect(ran.code).toBe(5);
  expect(ran.stderr).toContain("certautopilot kek rotate --to-version=1 --from-version=2");
  refusedWithHint(await kek(install, "rotate", "--cancel"), "cancelled already", "kek rotate --to-version=2");

  const done = await wrapsAt(install, 2);
  const left = 400 - done.size;
  expect(left).toBeGreaterThan(0);
  expect(await writeOne(install, 400)).toBe(2);
  await proveAll(install, [1, 2], 401);
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  refusedWithHint(await rotating(install, "--to-version=3").exited, "1 → 2 is open", "kek rotate --to-version=2");
  expect((await kek(install, "status")).json.rotation).toMatchObject({
    phase: 2,
    state: "cancelled",
    coordinator: null,
  });

  const resumed = await rotating(install, "--to-version=2").exited;
  expect(resumed.code).toBe(0);
  expect(resumed.json).toMatchObject({ rotation: 1, state: "completed", rewrapped: left });
  const after = await wrapsAt(install, 2);
  expect(after.size).toBe(401);
  for (const [id, wrap] of done) expect(after.get(id)).toBe(wrap);
  expect(await events(install, "rotation.resumed")).toMatchObject([{ phase: 2, after: "cancelled" }]);
  await proveAll(install, [2], 401);
  await stop(...fleet);
});

test("after a cancel the counters say what was done, and after the resume they add up", async () => {
  const install = await seededInstall(300, CALM);
  const fleet = await serveAll(install, "a");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect((await rotate.exited).code).toBe(5);
  const done = (await versionsOf(install))["2"] as number;
  const { rotation } = (await kek(install, "status")).json;
  const counted = { field: "secrets:value", done, remaining: 300 - done, failed: 0 };
  expect((await rotating(install, "--to-version=2").exited).json).toMatchObject({ rewrapped: 300 - done });
  const { history } = (await kek(install, "status")).json;
  expect(history[0].fields).toEqual([{ ...counted, done: 300, remaining: 0 }]);
  expect(rotation.fields).toEqual([counted]);
  await proveAll(install, [2], 300);
  await stop(...fleet);
});

test("Ctrl-C once cancels, in phase 1 and in phase 2", async () => {
  const install = await seededInstall(300, CALM);
  const [a, b] = await serveAll(install, "a", "b");
  b.kill("SIGSTOP");
  const inFirst = rotating(install, "--to-version=2");
  await inFirst.says(/phase 1: waiting for \d: .*b \(/);
  inFirst.kill("SIGINT");
  expect((await inFirst.exited).code).toBe(5);
  b.kill("SIGCONT");
  expect(await newestRotation(install)).toMatchObject({ phase: 1, state: "cancelled" });
  const inSecond = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  inSecond.kill("SIGINT");
  const ran = await inSecond.exited;
  expect(ran.code).toBe(5);
  expect(ran.stderr).toContain("cancelling");
  expect(await newestRotation(install)).toMatchObject({ _id: 2, phase: 2, state: "cancelled", open: true });
  await proveAll(install, [1, 2], 300);
  expect((await rotating(install, "--to-version=2").exited).json).toMatchObject({ rotation: 2, state: "completed" });
  await proveAll(install, [2], 300);
  await stop(a, b);
});

test("cancelling works when the coordinator is dead", async () => {
  const install = await seededInstall(300);
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  // Its workers, which compute, come after whatever else this host has to do; its main thread, which keeps the lease, does not.
  const [main, ...others] = nicesOf(rotate.pid);
  expect(main).toBe(getPriority());
  expect(Math.max(...others)).toBe(Math.max(10, getPriority()));
  rotate.kill("SIGKILL");
  await rotate.exited;
  const cancelled = await kek(install, "rotate", "--cancel");
  expect(cancelled.code).toBe(0);
  expect(cancelled.json).toMatchObject({ phase: 2 });
  expect(await newestRotation(install)).toMatchObject({ state: "cancelled", open: true });
  expect(await writeOne(install, 300)).toBe(2);
  await proveAll(install, [1, 2], 301);
  const resumed = await rotating(install, "--to-version=2").exited;
  expect(resumed.code).toBe(0);
  await proveAll(install, [2], 301);
  await stop(...fleet);
});

test("phase 3 refuses to cancel, names the reverse rotation, and completes", async () => {
  const install = await seededInstall(40, { ...CALM, drainMs: 2500 });
  const fleet = await serveAll(install, "a");
  const rotate = rotating(install, "--to-version=2");
  await rotate.says("phase 3: waiting for 1");
  // The phase stays open for as long as it is waited for.
  fleet[0].kill("SIGSTOP");
  refusedWithHint(
    await kek(install, "rotate", "--cancel"),
    "phase 3",
    "certautopilot kek rotate --to-version=1 --from-version=2",
  );
  // Ctrl-C is told the same, and the rotation continues.
  rotate.kill("SIGINT");
  await rotate.says("in phase 3 and cannot be cancelled");
  fleet[0].kill("SIGCONT");
  const ran = await rotate.exited;
  expect(ran.code).toBe(0);
  expect(await events(install, "rotation.cancelled")).toEqual([]);
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  await proveAll(install, [2], 40);
  await stop(...fleet);
});
