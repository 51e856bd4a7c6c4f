import { expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { Long } from "mongodb";
import { reserveWraps } from "../../src/store/versions.ts";
import { library, seed, versionsOf } from "../harness/library.ts";
import { run, stop, type TestInstall, testInstall } from "../harness/program.ts";
import {
  CALM,
  endLease,
  kek,
  movedTo,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
} from "../harness/schedule.ts";

/** Wraps under one version: counted before they are made, warned of from 2^31, refused at 2^32 (NIST SP 800-38D, 8.3). */

const LIMIT = 2 ** 32;
const ROOT = join(import.meta.dir, "../..");

async function wrapsOf(install: TestInstall, version: number): Promise<number> {
  const doc = await install.db.collection<{ _id: number; wraps: number }>("kek_versions").findOne({ _id: version });
  return Number(doc?.wraps);
}

async function setWraps(install: TestInstall, version: number, wraps: number): Promise<void> {
  await install.db
    .collection<{ _id: number }>("kek_versions")
    .updateOne({ _id: version }, { $set: { wraps: Long.fromNumber(wraps) } });
}

const SECRET = { collection: "secrets", id: 1, field: "value" };

test("a process killed while it encrypts has counted every wrap that it made, and not many more", async () => {
  const install = await seededInstall(1, CALM);
  for (const enough of [1, 2500]) {
    const before = await wrapsOf(install, 1);
    const variables = install.variables([1], 1, { CERTAUTOPILOT_INSTANCE_NAME: `tireless-${enough}` });
    const child = spawn(join(ROOT, "node_modules/.bin/bun"), [join(ROOT, "test/e2e/fixtures/tireless_writer.ts")], {
      env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...variables },
      cwd: ROOT,
    });
    let made = 0;
    child.stdout.on("data", (chunk: Buffer) => {
      made += chunk.length;
      if (made >= enough) child.kill("SIGKILL");
    });
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    await new Promise((resolve) => child.once("close", resolve));
    expect(said).toBe("");
    expect(made).toBeGreaterThanOrEqual(enough);
    const counted = (await wrapsOf(install, 1)) - before;
    expect(counted).toBeGreaterThanOrEqual(made);
    // The rest of a block, the next one, which is asked for early and twice as large, and what was made and not told.
    expect(counted).toBeLessThanOrEqual(made * 4 + 2100);
  }
});

test("a rotation killed midway twice has counted every wrap: those of the dead coordinators too", async () => {
  const install = await seededInstall(120, CALM);
  const fleet = await serveAll(install, "a");
  const before = await wrapsOf(install, 2);
  const moved: number[] = [];
  for (const enough of [30, 60]) {
    const running = rotating(install, "--to-version=2", ...SLOWLY);
    await movedTo(install, 2, enough);
    running.kill("SIGKILL");
    await running.exited;
    moved.push((await versionsOf(install))["2"] ?? 0);
    expect((await wrapsOf(install, 2)) - before).toBeGreaterThanOrEqual(moved.length * 10_000);
    // Nobody waits for a dead coordinator's lease here: that is for other tests.
    await endLease(install);
  }
  const ran = await rotating(install, "--to-version=2").exited;
  expect(ran.code).toBe(0);
  // Each of three coordinators reserved a block of its own.
  expect((await wrapsOf(install, 2)) - before).toBe(30_000);
  await proveAll(install, [2], 120);
  await stop(...fleet);
});

test("encrypt makes the wraps that are left under a version, then is refused by name, and continues under the next", async () => {
  const install = await testInstall();
  const writer = await library(install, [1, 2], 1, "writer");
  await seed(writer, install, 5);
  await writer.close();
  await setWraps(install, 1, LIMIT - 3);
  const late = await library(install, [1, 2], 2, "late");
  const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => late.encrypt("x", SECRET)));
  expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(3);
  for (const each of outcomes) {
    if (each.status === "fulfilled") continue;
    expect(each.reason.code).toBe("wrap_limit_reached");
    expect(each.reason.message).toContain("800-38D");
  }
  expect(await wrapsOf(install, 1)).toBe(LIMIT);
  await expect(late.encrypt("x", SECRET)).rejects.toMatchObject({ code: "wrap_limit_reached" });

  const status = await kek(install, "status");
  expect(status.json.versions[0]).toMatchObject({ version: 1, wraps: LIMIT, wraps_percent: 100 });
  expect(status.json.wraps).toMatchObject([{ code: "wraps", message: expect.stringContaining("KEK version 1") }]);
  const verified = await kek(install, "verify");
  expect(verified.code).toBe(3);
  expect(verified.json.problems.map((problem: { code: string }) => problem.code)).toContain("wraps");

  const rotated = await rotating(install, "--to-version=2").exited;
  expect({ code: rotated.code, stderr: rotated.stderr }).toMatchObject({ code: 0 });
  expect(Number((await late.encrypt("x", SECRET)).kek_version)).toBe(2);
  await late.close();
});

test("rotate refuses a target without room, and one that runs out midway is named and can be gone back from", async () => {
  const install = await seededInstall(40, CALM);
  const [serving] = await serveAll(install, "a");
  await setWraps(install, 2, LIMIT - 39);
  const refused = await rotating(install, "--to-version=2").exited;
  expect(refused.code).toBe(3);
  expect(refused.stderr).toMatch(
    /^error: KEK version 2 has room for 39 more wraps .*800-38D.* 40 envelopes.*\nhint: .+$/m,
  );
  expect(await versionsOf(install)).toEqual({ "1": 40 });

  // Enough for the preflight; while it waits for a process, others use most of it up.
  await setWraps(install, 2, LIMIT - 40);
  serving.kill("SIGSTOP");
  const running = rotating(install, "--to-version=2", "--batch-size=5");
  await running.says("waiting for 1");
  await setWraps(install, 2, LIMIT - 10);
  serving.kill("SIGCONT");
  const ended = await running.exited;
  expect({ code: ended.code, error: ended.json.error }).toMatchObject({
    code: 6,
    error: { code: "wrap_limit_reached" },
  });
  expect(ended.stderr).toMatch(/^error: KEK version 2 .*the rotation 1 → 2 is unfinished/m);
  expect(ended.stderr).toMatch(/^hint: go back: certautopilot kek rotate --to-version=1 --from-version=2/m);
  expect(await versionsOf(install)).toEqual({ "1": 30, "2": 10 });

  // The same command is told so before it starts; the reverse rotation is open.
  const resumed = await rotating(install, "--to-version=2").exited;
  expect(resumed.code).toBe(3);
  expect(resumed.stderr).toContain("--to-version=1 --from-version=2");
  expect((await rotating(install, "--to-version=1", "--from-version=2").exited).code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "1": 40 });
  await proveAll(install, [1], 40);
  await stop(serving);
});

test("verify warns from 2^31 on, and is healthy; status tells the percentage", async () => {
  const install = await seededInstall(1, CALM);
  const serving = await install.serve("serving", [1, 2], 1);
  await setWraps(install, 1, LIMIT / 2 - 1);
  const calm = await kek(install, "verify");
  expect(calm.json).toMatchObject({ ready: true, warnings: [] });
  await setWraps(install, 1, LIMIT / 2);
  const verified = await kek(install, "verify");
  expect(verified.code).toBe(0);
  expect(verified.json.warnings).toMatchObject([{ code: "wraps", message: expect.stringContaining("50%") }]);
  const told = await run(["kek", "verify"], install.variables([1, 2], 2));
  expect(told.stdout).toMatch(/^warning: KEK version 1 has made 2147483648 wraps.*800-38D.*\n {3}hint: .+rotate/m);
  const status = await run(["kek", "status"], install.variables([1, 2], 2));
  expect(status.stdout).toMatch(/wraps \(of 2\^32\)[\s\S]*2147483648 \(50%\)/);
  expect(status.stdout).toContain("KEK version 1 has made 2147483648 wraps");
  await stop(serving);
});

test("reservations near the limit grant what is left, together never more, and never lower a count", async () => {
  const install = await seededInstall(1, CALM);
  const store = { client: install.db.client, db: install.db };
  await setWraps(install, 1, LIMIT - 2500);
  const granted = await Promise.allSettled(Array.from({ length: 5 }, () => reserveWraps(store, 1, 1000)));
  const sum = granted.reduce((total, each) => total + (each.status === "fulfilled" ? each.value : 0), 0);
  expect(sum).toBe(2500);
  expect(granted.filter((each) => each.status === "rejected")).toHaveLength(2);
  // Another program may have counted beyond.
  await setWraps(install, 1, LIMIT + 5);
  await expect(reserveWraps(store, 1, 1)).rejects.toMatchObject({ code: "wrap_limit_reached" });
  expect(await wrapsOf(install, 1)).toBe(LIMIT + 5);
  await expect(reserveWraps(store, 77, 1)).rejects.toMatchObject({ code: "version_unknown" });
});
