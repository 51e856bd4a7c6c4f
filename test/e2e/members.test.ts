import { expect, test } from "bun:test";
import { library, versionsOf } from "../harness/library.ts";
import { type Running, run, stop, until } from "../harness/program.ts";
import {
  CALM,
  evicted,
  heartbeat,
  movedTo,
  newestRotation,
  proveAll,
  rotating,
  seededInstall,
  serveAll,
} from "../harness/schedule.ts";

/** Processes that start, die, sleep and wake while a rotation runs. */

const addressOf = (process: Running) => /ready on (http:\S+?),/.exec(process.stderr)?.[1] ?? "";

test("processes started and killed with -9 in each phase: it completes, each dead one evicted by name", async () => {
  const install = await seededInstall(1500, { drainMs: 2500, leaseMs: 6000, evictionMs: 12_000 });
  const [stays, ...dying] = await serveAll(install, "stays", "dies1", "dies2", "dies3");
  const started: Running[] = [];
  // Stopped, it holds phase 1 open until it is evicted.
  dying[0].kill("SIGSTOP");
  const rotate = rotating(install, "--to-version=2", "--max-rate=150", "--batch-size=10");
  for (const phase of [1, 2, 3] as const) {
    await rotate.says(`phase ${phase}: ${["announce", "re-wrap", "settle"][phase - 1]}`);
    if (phase === 2) await movedTo(install, 2, 150);
    dying[phase - 1]?.kill("SIGKILL");
    started.push(await install.serve(`starts${phase}`, [1, 2], 2));
    expect((await newestRotation(install))["phase"]).toBe(phase);
  }
  const ran = await rotate.exited;
  expect(ran.code).toBe(0);
  expect(ran.json).toMatchObject({ from: 1, to: 2, state: "completed", rewrapped: 1500 });
  expect((await evicted(install)).sort()).toEqual(["dies1", "dies2", "dies3"]);
  for (const [index, process] of dying.entries()) {
    expect(ran.stderr).toMatch(new RegExp(`evicted dies${index + 1} \\(api, \\S+, pid ${process.pid}\\)`));
  }
  expect(started.map(({ stderr }) => /writing under KEK version (\d)/.exec(stderr)?.[1])).toEqual(["1", "2", "2"]);
  // The survivors are in the new steady state, with v2 alone.
  const { _id: rotation, epoch } = await newestRotation(install);
  for (const name of ["stays", "starts1", "starts2", "starts3"]) {
    await until(`${name} is steady`, async () => (await heartbeat(install, name))?.["acked"]?.phase === 0);
    expect(await heartbeat(install, name)).toMatchObject({
      loaded: [2],
      write_version: 2,
      acked: { rotation, epoch, phase: 0 },
    });
  }
  await proveAll(install, [2], 1500);
  await stop(stays, ...started);
});

test("a process paused past its eviction joins again, and is not ready before it has acknowledged", async () => {
  const install = await seededInstall(50, { leaseMs: 4000, evictionMs: 8000 });
  const [awake, sleeper] = await serveAll(install, "awake", "sleeper");
  const before = await heartbeat(install, "sleeper");
  sleeper.kill("SIGSTOP");
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(0);
  expect(await evicted(install)).toEqual(["sleeper"]);
  expect(ran.stderr).toContain(`evicted sleeper (api, ${before?.["host"]}, pid ${sleeper.pid})`);
  expect(await heartbeat(install, "sleeper")).toBeNull();

  // Asked while it sleeps: the answer is the first thing that it says after waking.
  const readiness = async () => {
    const response = await fetch(`${addressOf(sleeper)}/readyz`);
    return { status: response.status, body: (await response.json()) as { ready: boolean; write_version?: number } };
  };
  const first = readiness();
  // The kernel keeps the request for it.
  await Bun.sleep(500);
  sleeper.kill("SIGCONT");
  const answers = [await first];
  await until("the sleeper is ready", async () => {
    answers.push(await readiness());
    const ready = answers[answers.length - 1]?.status === 200;
    if (ready) expect((await heartbeat(install, "sleeper"))?.["acked"]).not.toBeNull();
    return ready;
  });
  expect(answers[0]).toMatchObject({ status: 503, body: { ready: false } });
  expect(answers[answers.length - 1]).toMatchObject({ status: 200, body: { ready: true, write_version: 2 } });
  const after = await heartbeat(install, "sleeper");
  expect(after?._id).not.toEqual(before?._id);
  const { _id: rotation, epoch } = await newestRotation(install);
  expect(after).toMatchObject({ loaded: [2], write_version: 2, acked: { rotation, epoch, phase: 0 } });
  expect(sleeper.stderr).toContain("joins again");
  await proveAll(install, [2], 50);
  await stop(awake, sleeper);
});

test("a process paused for longer than its lease, but not past eviction, is waited for and not evicted", async () => {
  const install = await seededInstall(50, { leaseMs: 4000, evictionMs: 20_000 });
  const [awake, dozer] = await serveAll(install, "awake", "dozer");
  const before = await heartbeat(install, "dozer");
  dozer.kill("SIGSTOP");
  const rotate = rotating(install, "--to-version=2");
  await rotate.says(/waiting for \d: .*dozer/);
  await new Promise((resolve) => setTimeout(resolve, 4500));
  expect(await newestRotation(install)).toMatchObject({ phase: 1, state: "running" });
  dozer.kill("SIGCONT");
  expect((await rotate.exited).code).toBe(0);
  expect(await evicted(install)).toEqual([]);
  expect((await heartbeat(install, "dozer"))?._id).toEqual(before?._id as never);
  await proveAll(install, [2], 50);
  await stop(awake, dozer);
});

test("a process that joins in phase 2 writes under v2, reads both versions, and is waited for", async () => {
  const install = await seededInstall(400, CALM);
  const fleet = await serveAll(install, "a", "b");
  const rotate = rotating(install, "--to-version=2", "--max-rate=75", "--batch-size=5");
  await movedTo(install, 2, 80);
  const late = await library(install, [1, 2], 2, "late");
  // One that lacks v2 may not join any more: it says so, and nobody waits for it.
  const lacking = await run(["serve"], install.variables([1], 1, { CERTAUTOPILOT_INSTANCE_NAME: "lacking" }));
  expect(lacking.code).toBe(2);
  expect(lacking.stderr).toMatch(/^error: .*KEK version 2.*\nhint: .*KEK_V2/m);
  expect(await heartbeat(install, "lacking")).toBeNull();
  const { epoch } = await newestRotation(install);
  expect((await heartbeat(install, "late"))?.["acked"]).toMatchObject({ epoch, phase: 2 });
  expect(late.writeVersion).toBe(2);
  const value = await late.encrypt("secret 400", { collection: "secrets", id: 400, field: "value" });
  expect(Number(value.kek_version)).toBe(2);
  await install.db.collection("secrets").insertOne({ _id: 400 as never, value });
  const seen = new Set<number>();
  for (const record of await install.db.collection("secrets").find().toArray()) {
    const place = { collection: "secrets", id: record._id, field: "value" };
    expect((await late.decrypt(record["value"], place)).toString()).toBe(`secret ${record._id}`);
    seen.add(record["value"].kek_version);
  }
  expect([...seen].sort()).toEqual([1, 2]);
  const ran = await rotate.exited;
  expect(ran.code).toBe(0);
  expect(ran.stderr).toMatch(/phase 3: waiting for 3: .*late/);
  expect(ran.json.rewrapped).toBe(400);
  expect(await versionsOf(install)).toEqual({ "2": 401 });
  await late.close();
  await proveAll(install, [2], 401);
  await stop(...fleet);
});
