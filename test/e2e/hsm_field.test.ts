import { expect, test } from "bun:test";
import { proveHsm, readyz, seededHsm } from "../harness/hsm_install.ts";
import { type Ran, start, stop, until } from "../harness/program.ts";
import { versionsOf } from "../harness/records.ts";
import { evicted, newestRotation } from "../harness/schedule.ts";
import { CKR } from "../harness/token.ts";

/** HSMs as they are in the field: few sessions, slots that cannot be read, slow logins. Through serve, the library and a rotation. */

const PATIENT = { leaseMs: 10_000, evictionMs: 20_000 };
const ROTATE = ["rotate", "--to-version=2"];
const DONE = { code: 0, error: undefined };
const ended = ({ code, stderr }: Ran) => ({ code, error: stderr.match(/error:.*/)?.[0] });

for (const code of ["ARGUMENTS_BAD", "DEVICE_MEMORY", "VENDOR"] as const)
  test(`four sessions a process, and ${code} for the fifth: serve stays ready, the library and a rotation work`, async () => {
    const install = await seededHsm(400, [2], PATIENT);
    const { shim } = install.token;
    shim.set({ cap: 4, capCode: CKR[code], latencyUs: 1000 });
    const serving = await install.serve("api-1", 2);
    const service = await install.service(2);
    shim.set({ finalized: 0 });
    await service.ask({ traffic: "start" });
    const ran = await install.kek(ROTATE, 2);
    expect(ended(ran)).toEqual(DONE);
    expect(await service.ask({ traffic: "stop" })).toMatchObject({ wrong: 0, failed: [] });
    expect((await readyz(serving)).status).toBe(200);
    // The command finalises the module when it ends, and nobody else does.
    expect(shim.get("finalized")).toBe(1);
    await service.leave();
    await stop(serving);
    await proveHsm(install, 2, 400);
  });

test("a slot that cannot be read fails no start, no command and no running process", async () => {
  const install = await seededHsm(100, [2], PATIENT);
  const { shim } = install.token;
  shim.set({ freeSlot: CKR.DEVICE_ERROR });
  const serving = await install.serve("api-1", 2);
  const service = await install.service(2);
  expect((await install.kek(["verify"], 2)).code).toBe(0);
  // Sessions are closed, and opened again while no slot can be read: the slot is known.
  shim.set({ freeSlot: 0, infoCode: 0, drops: shim.get("drops") + 1 });
  expect(await service.ask({ right: true })).toEqual({ right: 100 });
  shim.set({ freeSlot: CKR.GENERAL_ERROR });
  expect(ended(await install.kek(ROTATE, 2))).toEqual(DONE);
  expect((await readyz(serving)).status).toBe(200);
  await service.leave();
  await stop(serving);
  await proveHsm(install, 2, 100);
});

test("C_Initialize and C_Login that take six seconds each: verify is ready, a rotation completes", async () => {
  const install = await seededHsm(200, [2], { leaseMs: 30_000, evictionMs: 60_000 });
  const { shim } = install.token;
  const serving = await install.serve("api-1", 2);
  shim.set({ initUs: 6_000_000, loginUs: 6_000_000 });
  expect((await install.kek(["verify", "--target=2"], 2)).json).toMatchObject({ ready: true });
  const initialized = shim.get("initialized");
  const ran = await install.kek(ROTATE, 2);
  expect(ended(ran)).toEqual(DONE);
  expect(ran.stderr).not.toContain("has not answered");
  // Once by the command, also for its rewrap workers.
  expect(shim.get("initialized")).toBe(initialized + 1);
  expect(await evicted(install)).toEqual([]);
  await stop(serving);
  shim.set({ initUs: 0, loginUs: 0 });
  await proveHsm(install, 2, 200);
}, 180_000);

test("phase 1 is not left while the rewrap workers have no session", async () => {
  const install = await seededHsm(200, [2], PATIENT);
  const { shim } = install.token;
  // The command itself logs in; its rewrap workers cannot.
  shim.set({ logins: 0, loginsMost: 1 });
  const running = start(["kek", ...ROTATE, "--json"], install.variables(2));
  await running.says(/C_Login: CKR_DEVICE_ERROR.*trying again/);
  expect((await newestRotation(install))["phase"]).toBe(1);
  shim.set({ loginsMost: 0 });
  expect(ended(await running.exited)).toEqual(DONE);
  expect(await versionsOf(install)).toEqual({ "2": 200 });
  await proveHsm(install, 2, 200);
});

test("a module that prints to stdout leaves the result of a command alone", async () => {
  const install = await seededHsm(0, []);
  install.token.shim.set({ prints: 1 });
  const ran = await install.kek(["verify"], 1);
  expect(ran.json).toMatchObject({ capabilities: expect.anything() });
  expect(ran.stderr).toContain("vendor library: connected");
});

test("a module that crashes in C_Finalize, or cannot be initialised again, ends no rotation before its records are moved", async () => {
  const install = await seededHsm(100, [2]);
  const { shim } = install.token;
  const initialized = shim.get("initialized");
  const running = start(["kek", ...ROTATE, "--json"], install.variables(2));
  await until("it is initialised", async () => shim.get("initialized") > initialized);
  shim.set({ crash: 1, initCode: CKR.GENERAL_ERROR });
  await running.exited;
  expect(await versionsOf(install)).toEqual({ "2": 100 });
  expect((await newestRotation(install))["state"]).toBe("completed");
  shim.set({ crash: 0, initCode: 0 });
});

test("at three seconds a call a process stays ready, and its sessions are not given up", async () => {
  const install = await seededHsm(1, [], PATIENT);
  const { shim } = install.token;
  const serving = await install.serve("api-1", 1);
  shim.set({ latencyUs: 3_000_000, slowInit: 1, attributeUs: 3_000_000, drops: shim.get("drops") + 1 });
  const until = performance.now() + 25_000;
  while (performance.now() < until) {
    expect(await readyz(serving)).toMatchObject({ status: 200 });
    await Bun.sleep(250);
  }
  expect(serving.stderr).not.toContain("has not answered");
  shim.set({ latencyUs: 0, attributeUs: 0 });
  await stop(serving);
});
