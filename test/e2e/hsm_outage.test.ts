import { expect, test } from "bun:test";
import type { Document } from "mongodb";
import { type HsmInstall, payloads, proveHsm, readyz, seededHsm } from "../harness/hsm_install.ts";
import { type Ran, type Running, start, stop, until } from "../harness/program.ts";
import { versionsOf } from "../harness/records.ts";
import { events, evicted, movedTo, newestRotation, wrapsAt } from "../harness/schedule.ts";
import { CKR } from "../harness/token.ts";

/** A rotation while the token fails now and then, is taken away, and comes back or does not. */

/** Nobody is to run out of time for waiting for the token; the defaults are three times as patient. */
const PATIENT = { leaseMs: 10_000, evictionMs: 20_000 };
const ROTATE = ["rotate", "--to-version=2"];

function rotating(install: HsmInstall, ...flags: string[]): Running {
  return start(["kek", ...ROTATE, "--json", ...flags], install.variables(2));
}

const ended = ({ code, stderr }: Ran) => ({ code, error: stderr.match(/error:.*/)?.[0] });
const DONE = { code: 0, error: undefined };

/** What must hold whatever happened: each value is there, unchanged, under version 2, and no record was called bad. */
async function expectAllRight(install: HsmInstall, before: unknown[], count: number): Promise<void> {
  expect(await versionsOf(install)).toEqual({ "2": count });
  expect(await payloads(install)).toEqual(before);
  expect(await events(install, "record.failed")).toEqual([]);
  await proveHsm(install, 2, count);
  expect(install.token.shim.get("overlaps")).toBe(0);
}

test("2,000 records, one call of a hundred failing: all are moved, none is called bad", async () => {
  const install = await seededHsm(2000, [2], PATIENT);
  const { shim } = install.token;
  const before = await payloads(install);
  const fleet = await Promise.all([install.serve("api-1", 2), install.serve("api-2", 2)]);
  shim.set({ failPpm: 10_000 });
  const ran = await install.kek(ROTATE, 2);
  const failed = shim.get("failed");
  shim.set({ failPpm: 0 });
  expect(ended(ran)).toEqual(DONE);
  expect(failed).toBeGreaterThan(40);
  expect(await evicted(install)).toEqual([]);
  await stop(...fleet);
  await expectAllRight(install, before, 2000);
});

test("a bad record is told from a token that fails", async () => {
  const install = await seededHsm(1000, [2], PATIENT);
  const { shim } = install.token;
  // Two wraps change places, and one loses a bit: those three do not open, whatever the token answers.
  const secrets = install.db.collection<{ _id: number; value: { wrapped_dek: { buffer: Uint8Array } } }>("secrets");
  const wrapOf = async (_id: number) => (await secrets.findOne({ _id }))?.value.wrapped_dek as { buffer: Uint8Array };
  const [ten, twenty, thirty] = [await wrapOf(10), await wrapOf(20), await wrapOf(30)];
  thirty.buffer[20] = (thirty.buffer[20] ?? 0) ^ 1;
  const put = (_id: number, wrap: unknown) =>
    secrets.updateOne({ _id }, { $set: { "value.wrapped_dek": wrap } as never });
  await Promise.all([put(10, twenty), put(20, ten), put(30, thirty)]);
  shim.set({ failPpm: 10_000 });
  const ran = await install.kek(ROTATE, 2);
  shim.set({ failPpm: 0 });
  expect([ran.code, ran.json.error.code]).toEqual([6, "incomplete"]);
  const numbers = (rows: Document[]) => rows.map(({ id }) => Number(JSON.parse(id).$numberInt)).sort();
  expect(numbers((await newestRotation(install))["failed"])).toEqual([10, 20, 30]);
  expect(numbers(await events(install, "record.failed"))).toEqual([10, 20, 30]);
  expect(await versionsOf(install)).toEqual({ "1": 3, "2": 997 });
  // Mended, the same command finishes.
  thirty.buffer[20] = (thirty.buffer[20] ?? 0) ^ 1;
  await Promise.all([put(10, ten), put(20, twenty), put(30, thirty)]);
  expect(ended(await install.kek(ROTATE, 2))).toEqual(DONE);
  await proveHsm(install, 2, 1000);
});

for (const code of ["DEVICE_REMOVED", "GENERAL_ERROR"] as const) {
  test(`taken away in the middle (${code}) and put back after three seconds: it continues automatically`, async () => {
    const install = await seededHsm(800, [2], PATIENT);
    const { shim } = install.token;
    const before = await payloads(install);
    const fleet = await Promise.all([install.serve("api-1", 2), install.serve("api-2", 2)]);
    const running = rotating(install, "--max-rate=200", "--batch-size=40");
    await movedTo(install, 2, 100);
    shim.set({ away: CKR[code] });
    await Bun.sleep(3000);
    // Its sessions are gone with it.
    shim.set({ away: 0, drops: shim.get("drops") + 1 });
    const ran = await running.exited;
    expect(ended(ran)).toEqual(DONE);
    // Every record that was moved is counted, and the outage is told in a line, not in one a second.
    expect(ran.json.rewrapped).toBe(800);
    const moved = (await events(install, "rotation.progress")).map((event) => Number(event["rewrapped"]));
    expect(moved.reduce((sum, each) => sum + each, 0)).toBe(800);
    expect(ran.stderr.match(/trying again/g)?.length ?? 0).toBeLessThan(2);
    expect(await evicted(install)).toEqual([]);
    await until("the fleet is ready", async () => (await readyz(fleet[0])).status === 200);
    await stop(...fleet);
    await expectAllRight(install, before, 800);
  });
}

test("away for long: it waits and says so, the rest is refused or works, killed meanwhile it is resumed later", async () => {
  const install = await seededHsm(800, [2], PATIENT);
  const { shim } = install.token;
  const before = await payloads(install);
  const fleet = await Promise.all([install.serve("api-1", 2), install.serve("api-2", 2)]);
  const running = rotating(install, "--max-rate=100", "--batch-size=20");
  await movedTo(install, 2, 100);
  const logins = shim.get("logins");
  shim.set({ away: CKR.DEVICE_REMOVED });
  const status = await install.kek(["status"], 2);
  expect([status.code, status.json.rotation.phase]).toEqual([0, 2]);
  await running.says(/token "certautopilot" .*trying again/);
  const moved = await wrapsAt(install, 2);

  // What needs the token says that it is unavailable; what does not, works.
  for (const words of [ROTATE, ["verify"], ["remove", "--version=1"], ["pkcs11-init", "--version=3"]]) {
    const refused = await install.kek(words, 2);
    expect([words, refused.code]).toEqual([words, 8]);
  }
  const late = await install.kek(["status"], 2);
  expect([late.code, late.json.rotation.phase]).toEqual([0, 2]);
  expect(running.child.exitCode).toBe(null);
  running.kill("SIGKILL");
  await running.exited;
  const left = await versionsOf(install);
  expect((left["1"] ?? 0) + (left["2"] ?? 0)).toBe(800);

  shim.set({ away: 0 });
  await until("the fleet is ready", async () => (await readyz(fleet[1])).status === 200);
  const resumed = await install.kek(ROTATE, 2);
  expect(ended(resumed)).toEqual(DONE);
  expect(resumed.json.state).toBe("completed");
  const after = await wrapsAt(install, 2);
  for (const [id, wrap] of moved) expect(after.get(id)).toBe(wrap);
  // A token that is unavailable is not asked to log in over and over.
  expect(shim.get("logins") - logins).toBeLessThan(60);
  expect(await evicted(install)).toEqual([]);
  await stop(...fleet);
  await expectAllRight(install, before, 800);
});

test("cancelled while the token is unavailable: the waiting command stops, the fleet reads on when it is back", async () => {
  const install = await seededHsm(600, [2], PATIENT);
  const { shim } = install.token;
  const serving = await install.serve("api-1", 2);
  const running = rotating(install, "--max-rate=100", "--batch-size=20");
  await movedTo(install, 2, 60);
  shim.set({ away: CKR.TOKEN_NOT_PRESENT });
  const cancelled = await install.kek(["rotate", "--cancel"], 2);
  expect(ended(cancelled)).toEqual(DONE);
  const ran = await running.exited;
  expect(ran.code).toBe(5);
  expect((await newestRotation(install))["state"]).toBe("cancelled");
  shim.set({ away: 0 });
  await until("the fleet is ready", async () => (await readyz(serving)).status === 200);
  await proveHsm(install, 2, 600);
  expect(ended(await install.kek(ROTATE, 2))).toEqual(DONE);
  await stop(serving);
  await proveHsm(install, 2, 600);
});

test("away before it begins, while keys are loaded, and while it settles: nothing is half done", async () => {
  const install = await seededHsm(300, [2], PATIENT);
  const { shim } = install.token;
  const before = await payloads(install);
  shim.set({ away: CKR.TOKEN_NOT_PRESENT });
  const refused = await install.kek(ROTATE, 2);
  expect([refused.code, await install.db.collection("kek_rotations").countDocuments()]).toEqual([8, 0]);
  shim.set({ away: 0 });
  // With a fleet: the token goes as soon as the rotation is there, when members are to load version 2.
  const fleet = await Promise.all([install.serve("api-1", 2), install.serve("api-2", 2)]);
  const running = rotating(install, "--max-rate=150", "--batch-size=30");
  await until("it is open", async () => (await newestRotation(install)) !== null);
  shim.set({ away: CKR.TOKEN_NOT_PRESENT });
  await Bun.sleep(2000);
  shim.set({ away: 0 });
  expect(ended(await running.exited)).toEqual(DONE);
  expect(await evicted(install)).toEqual([]);
  await stop(...fleet);
  await expectAllRight(install, before, 300);
});
