import { expect, test } from "bun:test";
import { versionsOf } from "../harness/library.ts";
import { stop, until } from "../harness/program.ts";
import {
  events,
  evicted,
  frozenState,
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

/** Coordinators that die, and one that sleeps past its lease and wakes as a zombie. */

/** A little patience, so that a busy machine costs no coordinator its lease; a successor waits that much longer. */
const TIMES = { leaseMs: 4000, evictionMs: 8000 };

test("kill -9 of the coordinator in phase 1: the same command completes", async () => {
  const install = await seededInstall(60, TIMES);
  const fleet = await serveAll(install, "a", "b");
  fleet[1].kill("SIGSTOP");
  const first = rotating(install, "--to-version=2");
  await first.says(/phase 1: waiting for \d: .*b \(/);
  first.kill("SIGKILL");
  await first.exited;
  fleet[1].kill("SIGCONT");
  expect(await newestRotation(install)).toMatchObject({ phase: 1, state: "running", open: true });
  expect(await versionsOf(install)).toEqual({ "1": 60 });
  const again = await rotating(install, "--to-version=2").exited;
  expect(again.code).toBe(0);
  expect(again.json).toMatchObject({ from: 1, to: 2, state: "completed", rewrapped: 60 });
  expect(await events(install, "rotation.resumed")).toMatchObject([{ from: 1, to: 2, phase: 1 }]);
  expect(await events(install, "rotation.started")).toHaveLength(1);
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  await proveAll(install, [2], 60);
  await stop(...fleet);
});

test("kill -9 of the coordinator in phase 2: the same command completes, and does nothing twice", async () => {
  const install = await seededInstall(400, TIMES);
  const fleet = await serveAll(install, "a", "b");
  const first = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  first.kill("SIGKILL");
  await first.exited;
  expect(await newestRotation(install)).toMatchObject({ phase: 2, state: "running", open: true });
  // MongoDB may still be at work on the dead one's last batch.
  await new Promise((resolve) => setTimeout(resolve, 200));
  const done = await wrapsAt(install, 2);
  expect(done.size).toBeGreaterThanOrEqual(30);
  expect(done.size).toBeLessThan(400);
  const again = await rotating(install, "--to-version=2").exited;
  expect(again.code).toBe(0);
  expect(again.json).toMatchObject({ state: "completed", rewrapped: 400 - done.size });
  const after = await wrapsAt(install, 2);
  expect(after.size).toBe(400);
  for (const [id, wrap] of done) expect(after.get(id)).toBe(wrap);
  expect(await events(install, "rotation.resumed")).toMatchObject([{ phase: 2 }]);
  expect(await events(install, "rotation.completed")).toHaveLength(1);
  await proveAll(install, [2], 400);
  await stop(...fleet);
});

test("kill -9 of the coordinator in phase 3: the same command completes", async () => {
  const install = await seededInstall(60, { ...TIMES, drainMs: 3000 });
  const fleet = await serveAll(install, "a", "b");
  const first = rotating(install, "--to-version=2");
  await first.says(/phase 3: waiting for 2/);
  first.kill("SIGKILL");
  await first.exited;
  expect(await newestRotation(install)).toMatchObject({ phase: 3, state: "running", open: true });
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  const again = await rotating(install, "--to-version=2").exited;
  expect(again.code).toBe(0);
  expect(again.json).toMatchObject({ state: "completed", rewrapped: 0 });
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  expect(await events(install, "rotation.resumed")).toMatchObject([{ phase: 3 }]);
  await proveAll(install, [2], 60);
  await stop(...fleet);
});

test("a coordinator paused past its lease, woken when others went there and back: exit 7, and it changes nothing", async () => {
  const install = await seededInstall(300, TIMES);
  const fleet = await serveAll(install, "a", "b");
  const first = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  first.kill("SIGSTOP");
  const second = await rotating(install, "--to-version=2").exited;
  expect(second.code).toBe(0);
  expect(second.stderr).toContain("the rotation's lease is held by");
  expect(second.json.state).toBe("completed");
  // Back, so that the records are once more at the version that the sleeping one is leaving.
  expect((await rotating(install, "--to-version=1", "--from-version=2").exited).code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "1": 300 });
  const settled = await frozenState(install);
  first.kill("SIGCONT");
  const woken = await first.exited;
  expect(woken.code).toBe(7);
  expect(woken.stderr).toMatch(/^error: this coordinator stops: .+\nhint: .+$/m);
  expect(woken.json).toMatchObject({ error: { code: "lease_lost", exit: 7 } });
  expect(await frozenState(install)).toBe(settled);
  await proveAll(install, [1], 300);
  await stop(...fleet);
});

test("a coordinator woken while its successor is at work: it stops with exit 7, and the successor completes", async () => {
  const install = await seededInstall(500, TIMES);
  const fleet = await serveAll(install, "a", "b");
  const first = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  first.kill("SIGSTOP");
  const second = rotating(install, "--to-version=2", "--max-rate=40", "--batch-size=10");
  await second.says(/going on with rotation 1 .*phase 2/);
  await movedTo(install, 2, 150);
  first.kill("SIGCONT");
  const woken = await first.exited;
  expect(woken.code).toBe(7);
  expect(await newestRotation(install)).toMatchObject({ phase: 2, state: "running" });
  const ran = await second.exited;
  expect(ran.code).toBe(0);
  expect(ran.json.state).toBe("completed");
  const { lease, fields } = await newestRotation(install);
  expect(lease.token).toBe(2);
  expect(fields).toMatchObject([{ field: "secrets:value", remaining: 0, failed: 0 }]);
  expect(await events(install, "rotation.resumed")).toHaveLength(1);
  await proveAll(install, [2], 500);
  await stop(...fleet);
});

test("a coordinator that woke late evicts nobody", async () => {
  const install = await seededInstall(50, TIMES);
  const [awake, sleeper] = await serveAll(install, "awake", "sleeper");
  sleeper.kill("SIGSTOP");
  const first = rotating(install, "--to-version=2");
  await first.says(/phase 1: waiting for \d: .*sleeper/);
  // Paused before the sleeper's eviction time is over, woken when it is long over, with the lease gone.
  first.kill("SIGSTOP");
  await until("the sleeper is past eviction", async () => {
    const [row] = await install.db
      .collection("process_heartbeats")
      .aggregate([
        { $match: { instance_name: "sleeper" } },
        { $project: { age: { $subtract: ["$$NOW", "$updated_at"] } } },
      ])
      .toArray();
    return Number(row?.["age"]) > TIMES.evictionMs + 500;
  });
  first.kill("SIGCONT");
  expect((await first.exited).code).toBe(7);
  expect(await evicted(install)).toEqual([]);
  sleeper.kill("SIGCONT");
  const again = await rotating(install, "--to-version=2").exited;
  expect(again.code).toBe(0);
  expect(await evicted(install)).toEqual([]);
  await proveAll(install, [2], 50);
  await stop(awake, sleeper);
});

test("a coordinator that slept past its lease and is stopped with Ctrl-C leaves its successor's rotation alone", async () => {
  const install = await seededInstall(200, TIMES);
  const fleet = await serveAll(install, "a");
  const sleeper = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 10);
  sleeper.kill("SIGSTOP");
  const successor = rotating(install, "--to-version=2", ...SLOWLY);
  await successor.says(/going on with rotation 1/);
  sleeper.kill("SIGINT");
  sleeper.kill("SIGCONT");
  const stopped = await sleeper.exited;
  expect((await successor.exited).code).toBe(0);
  expect(stopped.stderr).toContain("this command leads no rotation any more");
  expect(await events(install, "rotation.cancelled")).toEqual([]);
  await proveAll(install, [2], 200);
  await stop(...fleet);
});
