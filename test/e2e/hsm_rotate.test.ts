import { expect, test } from "bun:test";
import type { Document } from "mongodb";
import { type HsmInstall, hsmInstall, keksIn, made, payloads, proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { type Running, run, start, stop, until } from "../harness/program.ts";
import { versionsOf } from "../harness/records.ts";
import { endLease, events, movedTo, newestRotation, versionStates, wrapsAt } from "../harness/schedule.ts";

/** The main job with keys in a token: a fleet rotates under live traffic, the old key is destroyed, the reverse rotation. */

const ROTATE = ["rotate", "--to-version=2"];

/** A fleet of the usual shape; every process declares version 2. */
async function fleetOf(install: HsmInstall): Promise<Running[]> {
  return await Promise.all([
    install.serve("api-1", 2),
    install.serve("api-2", 2),
    install.serve("worker-1", 2, { flags: ["--role=worker"] }),
  ]);
}

/** `kek rotate` under way in the operator's shell. */
function rotating(install: HsmInstall, ...flags: string[]): Running {
  return start(["kek", ...ROTATE, "--json", ...flags], install.variables(2));
}

test("a fleet under traffic rotates from a key in the token to the next, and the old key is destroyed", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  const seeder = await install.service(1);
  await seeder.ask({ seed: 1500 });
  await seeder.leave();
  const before = await payloads(install);
  const oldRecord = (await install.db.collection("secrets").findOne({ _id: 7 as never })) as Document;

  // The fleet runs before the key is there; version 2 is declared, and nobody writes under it.
  const fleet = await fleetOf(install);
  const unknown = await install.kek(["verify", "--target=2"], 2);
  expect([unknown.code, unknown.json.problems[0].hint]).toEqual([
    3,
    expect.stringContaining("certautopilot kek pkcs11-init --version=2"),
  ]);
  const service = await install.service(2);
  await service.ask({ traffic: "start" });
  await made(install, 2);
  await until("everybody is ready", async () => (await install.kek(["verify", "--target=2"], 2)).code === 0);
  const verified = await install.kek(["verify", "--target=2"], 2);
  expect(verified.json.processes.map((entry: Document) => [entry["instance_name"], entry["loaded"]]).sort()).toEqual(
    ["api-1", "api-2", "service", "worker-1"].map((name) => [name, [1, 2]]),
  );
  expect(Object.keys(await versionsOf(install, "live"))).toEqual(["1"]);

  const rotated = await install.kek(ROTATE, 2);
  expect(rotated.stderr).not.toContain("error:");
  expect(rotated.json).toMatchObject({ from: 1, to: 2, state: "completed", fenced: true });
  expect(await service.ask({ traffic: "stop" })).toMatchObject({ wrong: 0, failed: [] });
  expect(await versionsOf(install)).toEqual({ "2": 1500 });
  expect(await versionsOf(install, "live")).toEqual({ "2": 4 });
  expect(await payloads(install)).toEqual(before);
  expect(await service.ask({ right: true })).toEqual({ right: 1500 });
  await service.leave();
  const records = await install.kek(["verify", "--records"], 2);
  expect(records.json).toMatchObject({ ready: true, records: 1504, opened: 1504, failed: 0 });

  // Version 1 is refused by MongoDB itself.
  const late = install.db.collection("secrets").insertOne({ value: oldRecord["value"] });
  expect(await late.catch((thrown) => thrown.code)).toBe(121);

  // Two keys until one is removed, then one; and its number is not used again.
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v1", "certautopilot-kek-v2"]);
  const removed = await install.kek(["remove", "--version=1", "--yes"], 2);
  expect({ code: removed.code, stderr: removed.stderr }).toMatchObject({ code: 0 });
  expect(removed.json).toMatchObject({ outcome: "destroyed", remaining: [] });
  expect(removed.json.destroyed).toEqual([expect.stringContaining("certautopilot-kek-v1")]);
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v2"]);
  const again = await run(["kek", "remove", "--version=1", "--yes"], install.variables(2));
  expect(again.code).toBe(0);
  expect(`${again.stdout}${again.stderr}`).toContain("destroyed already");
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v2"]);
  expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
  const back = await install.kek(["rotate", "--to-version=1", "--from-version=2"], 2);
  expect([back.code, back.json.error.code]).toEqual([3, "refused"]);
  const restart = await install.kek(["pkcs11-init", "--version=1"]);
  expect([restart.code, restart.json.error.message]).toEqual([3, expect.stringContaining("never used again")]);

  await stop(...fleet);
  await proveHsm(install, 2, 1500);
  expect(install.token.shim.get("overlaps")).toBe(0);
});

test("keys that are in use are not removed; a staged one is forgotten, and its number can be made again", async () => {
  const install = await seededHsm(50);
  const running = await install.serve("api-1", 1);
  for (const [version, why] of [
    [1, "is the active one"],
    [3, "is not known"],
  ] as const) {
    const ran = await install.kek(["remove", `--version=${version}`], 1);
    expect([ran.code, ran.json.error.message]).toEqual([3, expect.stringContaining(why)]);
  }
  await stop(running);
  const forgotten = await install.kek(["remove", "--version=2"], 1);
  expect([forgotten.code, forgotten.json.outcome]).toEqual([0, "forgotten"]);
  expect(await versionStates(install)).toEqual({ "1": "active" });
  const restart = await install.kek(["pkcs11-init", "--version=2"]);
  expect({ code: restart.code, stderr: restart.stderr }).toEqual({ code: 0, stderr: "" });
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v1", "certautopilot-kek-v2"]);
  expect((await install.kek(ROTATE, 2)).code).toBe(0);
  // --remove-old takes the key along.
  await made(install, 3);
  const removing = await install.kek(["rotate", "--to-version=3", "--remove-old"], 3);
  expect(removing.json).toMatchObject({ state: "completed", removal: { outcome: "destroyed", remaining: [] } });
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v1", "certautopilot-kek-v3"]);
  await proveHsm(install, 3, 50);
});

test("a rotation is reversed half-way, gone through again, and reversed when complete", async () => {
  const install = await seededHsm(600);
  const before = await payloads(install);
  const fleet = await fleetOf(install);
  const slow = rotating(install, "--max-rate=100", "--batch-size=20");
  await movedTo(install, 2, 150);
  const cancelled = await install.kek(["rotate", "--cancel"], 2);
  expect({ code: cancelled.code, stderr: cancelled.stderr }).toMatchObject({ code: 0 });
  expect((await slow.exited).code).toBe(5);
  const halfway = await versionsOf(install);
  expect([(halfway["1"] ?? 0) > 0, (halfway["2"] ?? 0) >= 150]).toEqual([true, true]);

  const back = ["rotate", "--to-version=1", "--from-version=2"];
  const reversed = await install.kek(back, 2);
  expect({ code: reversed.code, stderr: reversed.code === 0 ? "" : reversed.stderr }).toEqual({ code: 0, stderr: "" });
  expect(await versionsOf(install)).toEqual({ "1": 600 });
  const forth = await install.kek([...ROTATE, "--from-version=1"], 2);
  expect({ code: forth.code, stderr: forth.stderr }).toMatchObject({ code: 0 });
  expect(await versionsOf(install)).toEqual({ "2": 600 });
  const complete = await install.kek(back, 2);
  expect([complete.code, await versionsOf(install)]).toEqual([0, { "1": 600 }]);
  expect(await payloads(install)).toEqual(before);
  await stop(...fleet);
  await proveHsm(install, 1, 600);
  expect(await events(install, "record.failed")).toEqual([]);
});

test("a rotation whose command is killed is taken up by the next, and nothing is done twice", async () => {
  const install = await seededHsm(800);
  const before = await payloads(install);
  const fleet = await fleetOf(install);
  const first = rotating(install, "--max-rate=100", "--batch-size=20");
  await movedTo(install, 2, 200);
  first.kill("SIGKILL");
  await first.exited;
  const moved = await wrapsAt(install, 2);
  const second = await install.kek(ROTATE, 2);
  expect(second.stderr).not.toContain("error:");
  expect(second.json).toMatchObject({ state: "completed" });
  expect(await versionsOf(install)).toEqual({ "2": 800 });
  const after = await wrapsAt(install, 2);
  for (const [id, wrap] of moved) expect(after.get(id)).toBe(wrap);
  expect(await payloads(install)).toEqual(before);
  await stop(...fleet);
  await proveHsm(install, 2, 800);
});

test("killed after each few hundred calls to the token, again and again, it comes to its end", async () => {
  const install = await seededHsm(600, [2], { leaseMs: 10_000, evictionMs: 20_000 });
  const { shim } = install.token;
  const before = await payloads(install);
  let runs = 0;
  for (let code: number | null = null; code === null; runs += 1) {
    shim.set({ killIn: 500 + 97 * runs });
    const ran = await install.kek([...ROTATE, "--batch-size=25", "--hsm-sessions=3"], 2);
    code = ran.code;
    if (code !== null)
      expect({ code, error: ran.stderr.match(/error:.*/)?.[0] }).toEqual({ code: 0, error: undefined });
    else await endLease(install);
    expect(runs).toBeLessThan(30);
  }
  expect(runs).toBeGreaterThan(2);
  shim.set({ killIn: 0 });
  expect(await versionsOf(install)).toEqual({ "2": 600 });
  expect(await payloads(install)).toEqual(before);
  expect(await events(install, "record.failed")).toEqual([]);
  await proveHsm(install, 2, 600);
});

test("a session that hangs, is dropped, or a wrap that is wrong: no record is harmed", async () => {
  const install = await seededHsm(1200);
  const { shim } = install.token;
  const before = await payloads(install);
  const fleet = await fleetOf(install);
  const running = rotating(install, "--max-rate=300", "--batch-size=50");
  await movedTo(install, 2, 100);
  for (let round = 1; round <= 5; round += 1) {
    shim.set({ corruptIn: 3, drops: shim.get("drops") + 1 });
    await Bun.sleep(200);
  }
  shim.set({ hang: 1 });
  await Bun.sleep(2500);
  shim.set({ hang: 0 });
  const ran = await running.exited;
  expect({ code: ran.code, error: ran.stderr.match(/error:.*/)?.[0] }).toEqual({ code: 0, error: undefined });
  expect(shim.get("corruptIn")).toBe(0);
  expect(await payloads(install)).toEqual(before);
  expect(await events(install, "record.failed")).toEqual([]);
  await stop(...fleet);
  await proveHsm(install, 2, 1200);
  expect(shim.get("overlaps")).toBe(0);
});

for (const limit of [1, 2]) {
  test(`a token that gives ${limit} sessions is enough`, async () => {
    const install = await seededHsm(400);
    const { shim } = install.token;
    shim.set({ sessions: 0, sessionsPeak: 0, sessionLimit: limit });
    const ran = await install.kek(ROTATE, 2);
    expect({ code: ran.code, error: ran.stderr.match(/error:.*/)?.[0] }).toEqual({ code: 0, error: undefined });
    expect(await versionsOf(install)).toEqual({ "2": 400 });
    await proveHsm(install, 2, 400);
  });
}

test("what other processes leave of a token's sessions is enough, or is named", async () => {
  const install = await seededHsm(400, [2, 3]);
  const { shim } = install.token;
  const serving = await install.serve("api-1", 2);
  const held = shim.get("sessions");
  expect(held).toBeGreaterThan(0);
  // The token tells its whole limit; how much of it others use, a process finds out.
  shim.set({ sessionLimit: held, latencyUs: 1000 });
  const none = await install.kek(ROTATE, 2);
  expect([none.code, none.json.error.code, none.json.error.hint]).toEqual([
    8,
    "hsm_unavailable",
    expect.stringContaining("--hsm-sessions"),
  ]);
  expect(await install.db.collection("kek_rotations").countDocuments()).toBe(0);
  for (const [left, words] of [
    [3, ROTATE],
    [2, [...ROTATE.slice(0, 1), "--to-version=1", "--from-version=2"]],
    [1, [...ROTATE, "--from-version=1"]],
  ] as const) {
    shim.set({ sessionLimit: held + left });
    const ran = await install.kek([...words], 2);
    expect({ left, code: ran.code, error: ran.stderr.match(/error:.*/)?.[0] }).toEqual({
      left,
      code: 0,
      error: undefined,
    });
  }
  await stop(serving);
  shim.set({ sessionLimit: 0, latencyUs: 0 });
  await proveHsm(install, 2, 400);
});

test("--hsm-sessions and the setting say how many sessions a process opens at most", async () => {
  const install = await seededHsm(1500, [2, 3]);
  const { shim } = install.token;
  const SETTING = { CERTAUTOPILOT_ENCRYPTION_PKCS11_SESSIONS: "4" };
  for (const [version, flags, over, most] of [
    [2, ["--hsm-sessions=4"], {}, 4],
    [3, [], SETTING, 4],
    [1, ["--from-version=3", "--hsm-sessions=1"], {}, 1],
  ] as const) {
    // Slow, so that more sessions would be of use.
    shim.set({ sessions: 0, sessionsPeak: 0, latencyUs: 1000 });
    const ran = await install.kek(["rotate", `--to-version=${version}`, ...flags], version, over);
    expect({ code: ran.code, error: ran.stderr.match(/error:.*/)?.[0] }).toEqual({ code: 0, error: undefined });
    const peak = shim.get("sessionsPeak");
    expect({ flags, peak, within: peak <= most, used: most === 1 || peak > 1 }).toEqual({
      flags,
      peak,
      within: true,
      used: true,
    });
  }
  shim.set({ latencyUs: 0 });
  expect((await newestRotation(install))["state"]).toBe("completed");
  await proveHsm(install, 1, 1500);
});
