import { expect, test } from "bun:test";
import type { Member } from "../../src/protocol/member.ts";
import { evictIdle } from "../../src/store/evictions.ts";
import { readRoster, refreshHeartbeat } from "../../src/store/heartbeats.ts";
import { closeStore, inSession, openStore } from "../../src/store/store.ts";
import { run, stop, type TestInstall, until } from "../harness/program.ts";
import {
  evicted,
  heartbeat,
  kek,
  movedTo,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
} from "../harness/schedule.ts";
import { forge } from "../harness/unready.ts";

/**
 * MongoDB's clock is set back by an hour: what was stored before lies in the future then. For that the tests set the stored times
 * forward, which is the same. Who lives writes a new time soon; who is dead must not be waited for until the hour is over.
 */

const HOUR_MS = 3_600_000;
const TIMES = { leaseMs: 3000, evictionMs: 6000 };
/** Well above the lease, the grace and a rotation of few records, and far below the hour. */
const SOON_MS = 60_000;

/** The lease of the open rotation, as if it had been renewed just before the clock was set back. */
async function leaseAhead(install: TestInstall): Promise<void> {
  const forward = { $set: { "lease.expires_at": { $add: ["$lease.expires_at", HOUR_MS] } } };
  await install.db.collection("kek_rotations").updateOne({ open: true }, [forward]);
}

/** A rotation whose command was killed in phase 2, with its lease in the future. */
async function orphaned(): Promise<TestInstall> {
  const install = await seededInstall(40, TIMES);
  const first = rotating(install, "--to-version=2", "--yes", ...SLOWLY);
  await movedTo(install, 2, 5);
  first.kill("SIGKILL");
  await first.exited;
  await leaseAhead(install);
  return install;
}

test("a rotation whose coordinator died before the clock was set back is resumed within a lease, and says why it waits", async () => {
  const install = await orphaned();
  const began = performance.now();
  const resumed = rotating(install, "--to-version=2", "--yes");
  const ran = await resumed.exited;
  expect([ran.code, ran.json?.state]).toEqual([0, "completed"]);
  const waited = performance.now() - began;
  expect(waited).toBeGreaterThan(TIMES.leaseMs);
  expect(waited).toBeLessThan(SOON_MS);
  // Said once, although the rotation is looked at before and after the question.
  expect(ran.stderr.match(/clock was set back/g)).toHaveLength(1);
  expect(ran.stderr).toMatch(
    /^MongoDB's clock was set back by 60 min or more since the lease of cli .* waiting 4\.0 s by/m,
  );
  expect(ran.stderr).not.toContain("the rotation's lease is held by");
  expect(await newestRotation(install)).toMatchObject({ state: "completed", lease: { token: 2 } });
  await proveAll(install, [2], 40);
});

test("so is one that is reversed", async () => {
  const install = await orphaned();
  const began = performance.now();
  const ran = await rotating(install, "--to-version=1", "--from-version=2", "--yes").exited;
  expect([ran.code, ran.json?.state]).toEqual([0, "completed"]);
  expect(performance.now() - began).toBeLessThan(SOON_MS);
  await proveAll(install, [1], 40);
});

test("a coordinator that lives is not robbed: its lease changes, however far ahead it is", async () => {
  const install = await seededInstall(60, TIMES);
  const fleet = await serveAll(install, "a");
  const first = rotating(install, "--to-version=2", "--yes", ...SLOWLY);
  await movedTo(install, 2, 5);
  // Set forward after each renewal, as if the clock went back each time: it is known by its renewals alone.
  let ended = false;
  const ahead = (async () => {
    const watch = install.db.collection("kek_rotations");
    while (!ended) {
      const soon = { $lt: ["$lease.expires_at", { $add: ["$$NOW", HOUR_MS / 2] }] };
      const forward = { $set: { "lease.expires_at": { $add: ["$lease.expires_at", HOUR_MS] } } };
      await watch.updateOne({ open: true, $expr: soon }, [forward]);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  const second = await kek(install, "rotate", "--to-version=2", "--yes");
  ended = true;
  await ahead;
  expect([second.code, second.json?.error.code]).toEqual([3, "refused"]);
  expect(second.stderr).toMatch(/^error: the rotation 1 → 2 is already run by cli /m);
  const ran = await first.exited;
  expect([ran.code, ran.json?.state]).toEqual([0, "completed"]);
  expect((await newestRotation(install))["lease"].token).toBe(1);
  await stop(...fleet);
  await proveAll(install, [2], 60);
});

test("a coordinator that wakes when its lease was taken over changes nothing, however long its lease seems to last", async () => {
  const install = await seededInstall(40, TIMES);
  const first = rotating(install, "--to-version=2", "--yes", ...SLOWLY);
  await movedTo(install, 2, 5);
  first.kill("SIGSTOP");
  await leaseAhead(install);
  const second = rotating(install, "--to-version=2", "--yes");
  await until("it is taken over", async () => (await newestRotation(install))["lease"]?.token === 2);
  first.kill("SIGCONT");
  expect((await first.exited).json).toMatchObject({ error: { code: "lease_lost" } });
  expect((await second.exited).code).toBe(0);
  await proveAll(install, [2], 40);
});

async function heartbeatAhead(install: TestInstall, name: string): Promise<void> {
  const forward = { $set: { updated_at: { $add: ["$updated_at", HOUR_MS] } } };
  await install.db.collection("process_heartbeats").updateOne({ instance_name: name }, [forward]);
}

const inAnHour = () => new Date(Date.now() + HOUR_MS);

test("a dead process with a heartbeat in the future is named, with an age, and evicted by name after a watch", async () => {
  const install = await seededInstall(30, TIMES);
  const fleet = await serveAll(install, "lives");
  const id = await forge(install, "lives", { instance_name: "dead", updated_at: inAnHour() });
  const words =
    /dead .* may be silent: its last heartbeat lies 60 min in the future, because MongoDB's clock was set back/;
  const verified = await kek(install, "verify", "--target=2");
  expect(verified.code).toBe(3);
  expect(verified.json.problems).toEqual([
    expect.objectContaining({ code: "silent", process: id, message: expect.stringMatching(words) }),
  ]);
  for (const { last_beat_ms: age } of verified.json.processes) expect(age).toBeGreaterThanOrEqual(0);
  expect((await run(["kek", "verify"], install.variables([1, 2], 2))).stdout).not.toMatch(/ -\d/);
  const status = await kek(install, "status");
  const shown = status.json.processes.find(({ name }: { name: string }) => name === "dead");
  expect(shown.last_beat_ms).toBe(0);
  expect(shown.problems[0].message).toMatch(words);
  expect((await kek(install, "rotate", "--to-version=2", "--yes")).code).toBe(3);

  const began = performance.now();
  const rotated = await kek(install, "rotate", "--to-version=2", "--yes", "--evict=dead");
  expect([rotated.code, rotated.json?.state]).toEqual([0, "completed"]);
  expect(performance.now() - began).toBeGreaterThan(TIMES.evictionMs);
  expect(performance.now() - began).toBeLessThan(SOON_MS);
  expect(rotated.stderr).toMatch(/^the last heartbeat of dead .* in the future, because .*: watching it for 6\.0 s; /m);
  expect(await evicted(install)).toEqual(["dead"]);
  await stop(...fleet);
  await proveAll(install, [2], 30);
});

test("a living process whose last heartbeat lies in the future is not evicted: it sends another", async () => {
  const install = await seededInstall(30, TIMES);
  const fleet = await serveAll(install, "lives");
  const [serving] = fleet;
  serving.kill("SIGSTOP");
  await heartbeatAhead(install, "lives");
  const rotate = rotating(install, "--to-version=2", "--yes", "--evict=lives");
  await rotate.says("watching it for");
  serving.kill("SIGCONT");
  const ran = await rotate.exited;
  expect([ran.code, ran.json?.error.code]).toEqual([3, "refused"]);
  expect(ran.stderr).toMatch(/^error: lives .* is not evicted: its last heartbeat was \d\.\d s ago/m);
  expect([await evicted(install), (await heartbeat(install, "lives")) !== null]).toEqual([[], true]);
  await stop(...fleet);
});

test("a coordinator evicts a process that sent no heartbeat while it was waited for, although the last one lies in the future", async () => {
  const install = await seededInstall(30, TIMES);
  const fleet = await serveAll(install, "lives", "sleeps");
  const [, sleeper] = fleet;
  sleeper.kill("SIGSTOP");
  const rotate = rotating(install, "--to-version=2", "--yes");
  await until("phase 1", async () => (await install.db.collection("kek_rotations").countDocuments({ phase: 1 })) === 1);
  await heartbeatAhead(install, "sleeps");
  const ran = await rotate.exited;
  expect([ran.code, ran.json?.state]).toEqual([0, "completed"]);
  expect(ran.stderr).toMatch(/^evicted sleeps .*: silent for 6\.\d s/m);
  expect(await evicted(install)).toEqual(["sleeps"]);
  sleeper.kill("SIGCONT");
  await until("it joins again", async () => (await heartbeat(install, "sleeps"))?.["acked"]?.phase === 0);
  await stop(...fleet);
  await proveAll(install, [2], 30);
});

test("a member that was watched is evicted on the very heartbeat that was seen, and not on a later one", async () => {
  const install = await seededInstall(5, TIMES);
  const fleet = await serveAll(install, "lives");
  const id = await forge(install, "lives", { instance_name: "dead", updated_at: inAnHour() });
  const store = await openStore({ uri: install.uri, name: install.name }, { appName: "test" });
  const auditor = { secret: "audit-secret-of-the-tests", actor: "test", sinks: [] };
  const seen = async () => (await readRoster(store)).find(({ _id }) => _id === id) as Member;
  const watched = { ...(await seen()), watched_ms: 7000 };
  expect([watched.age_ms, Math.round((watched.ahead_ms ?? 0) / 60_000)]).toEqual([0, 60]);
  // Not by MongoDB's clock, and not when it was watched for too short a time.
  expect(await evictIdle(store, auditor, { ...watched, watched_ms: 5000 }, TIMES.evictionMs)).toBe(false);
  const { loaded, available, problems, key_trouble, current_version, write_version } = watched;
  const fields = { loaded, available, problems, key_trouble, current_version, write_version } as Parameters<
    typeof refreshHeartbeat
  >[3];
  await inSession(store, (session) => refreshHeartbeat(store, session, id, fields));
  expect(await evictIdle(store, auditor, watched, TIMES.evictionMs)).toBe(false);
  const again = { ...(await seen()), watched_ms: 7000 };
  expect(await evictIdle(store, auditor, again, TIMES.evictionMs)).toBe(true);
  await closeStore(store);
  await stop(...fleet);
});
