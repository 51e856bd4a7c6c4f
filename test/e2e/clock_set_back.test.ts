import { expect, test } from "bun:test";
import { stop, type TestInstall, until } from "../harness/program.ts";
import {
  kek,
  movedTo,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
} from "../harness/schedule.ts";

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
