import { expect, test } from "bun:test";
import { copyFileSync, cpSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  addressOf,
  type HsmInstall,
  hsmInstall,
  keksIn,
  keysIn,
  made,
  proveHsm,
  readyz,
  seededHsm,
} from "../harness/hsm_install.ts";
import { type Running, run, start, stop, until } from "../harness/program.ts";
import { changesNothing, expectRefusal } from "../harness/refusal.ts";
import { movedTo } from "../harness/schedule.ts";
import { CKR, copyOf, SOFTHSM } from "../harness/token.ts";

/** A process of the fleet whose KEKs are in a token: what it does while the token is unavailable, another one, or without a key. */

/** Nobody is evicted while a token is tried again for five seconds. */
const PATIENT = { leaseMs: 10_000, evictionMs: 20_000 };
const V1 = "certautopilot-kek-v1";

for (const code of ["TOKEN_NOT_PRESENT", "DEVICE_REMOVED", "GENERAL_ERROR"] as const) {
  test(`not ready while the token is unavailable (${code}), ready again without a restart`, async () => {
    const install = await seededHsm(20, []);
    const { shim } = install.token;
    const serving = await install.serve("api-1", 1);
    const service = await install.service(1);
    expect(await readyz(serving)).toMatchObject({ status: 200, body: { ready: true, write_version: 1 } });
    for (let round = 1; round <= 2; round += 1) {
      shim.set({ away: CKR[code], logins: 0 });
      await until("it is not ready", async () => (await readyz(serving)).status === 503);
      expect((await readyz(serving)).body).toEqual({
        ready: false,
        reason: expect.stringMatching(/token "certautopilot"/),
      });
      // A request fails, in a time that a client waits for, and says why.
      const began = performance.now();
      const failed = await service.ask({ encrypt: "while it is unavailable", id: 1 });
      expect(failed.error.message).toMatch(/token "certautopilot"/);
      expect(performance.now() - began).toBeLessThan(15_000);
      expect((await service.ask({ right: true })).error.message).toMatch(/token "certautopilot"/);
      // Whoever looks at the fleet sees it too, not only who asks this process.
      await until("its heartbeat says so", async () => {
        const beats = await install.db.collection("process_heartbeats").find({ role: "api" }).toArray();
        return beats.length === 1 && /token "certautopilot"/.test(beats[0]?.["key_trouble"]);
      });
      expect(shim.get("logins")).toBe(0);
      shim.set({ away: 0, drops: shim.get("drops") + 1 });
      await until("it is ready again", async () => (await readyz(serving)).status === 200);
      await until("the service encrypts again", async () => {
        const { version } = await service.ask({ encrypt: `back ${round}`, id: round });
        return version === 1;
      });
      expect(await service.ask({ decrypt: round })).toEqual({ text: `back ${round}` });
      expect(await service.ask({ right: true })).toEqual({ right: 20 });
    }
    expect(serving.stderr).toMatch(/token "certautopilot"/);
    expect(serving.child.exitCode).toBe(null);
    await service.leave();
    await stop(serving);
  });
}

test("sessions that are closed behind its back are opened again, and no request fails", async () => {
  const install = await seededHsm(20, []);
  const { shim } = install.token;
  const serving = await install.serve("api-1", 1);
  const service = await install.service(1);
  for (let round = 0; round < 5; round += 1) {
    shim.set({ drops: shim.get("drops") + 1 });
    expect(await service.ask({ encrypt: `text ${round}`, id: round })).toEqual({ version: 1 });
    expect(await service.ask({ decrypt: round })).toEqual({ text: `text ${round}` });
    expect(await service.ask({ right: true })).toEqual({ right: 20 });
    expect((await readyz(serving)).status).toBe(200);
    await Bun.sleep(300);
  }
  await service.leave();
  await stop(serving);
  expect(shim.get("overlaps")).toBe(0);
});

test("its heart beats on while the token is unavailable or hangs, and it ends when it is told to", async () => {
  const leaseMs = 5000;
  const install = await seededHsm(5, [], { leaseMs, evictionMs: 10_000 });
  const { shim } = install.token;
  const serving = await install.serve("api-1", 1);
  const other = await install.serve("api-2", 1);
  const oldestBeatMs = async () => {
    const [row] = await install.db
      .collection("process_heartbeats")
      .aggregate([{ $group: { _id: null, oldest: { $max: { $subtract: ["$$NOW", "$updated_at"] } }, n: { $sum: 1 } } }])
      .toArray();
    expect(row?.["n"]).toBe(2);
    return Number(row?.["oldest"]);
  };
  const watch = async () => {
    for (let look = 0; look < 45; look += 1) {
      expect((await fetch(`${addressOf(serving)}/healthz`)).status).toBe(200);
      expect(await oldestBeatMs()).toBeLessThan(leaseMs);
      await Bun.sleep(200);
    }
  };
  const endsSoon = async (process: Running) => {
    const began = performance.now();
    await stop(process);
    const tookS = (performance.now() - began) / 1000;
    expect((await process.exited).code).toBe(0);
    return tookS;
  };
  shim.set({ away: CKR.DEVICE_REMOVED });
  const verifying = start(["kek", "verify"], install.variables(1));
  await watch();
  expect((await verifying.exited).code).toBe(8);
  expect((await run(["serve"], install.variables(1))).code).toBe(8);
  await until("it is not ready", async () => (await readyz(serving)).status === 503);

  shim.set({ away: 0, hang: 1 });
  await watch();
  // A supervisor kills what has not ended after its patience, often 30 s.
  expect(await endsSoon(other)).toBeLessThan(10);
  shim.set({ hang: 0 });
  await until("it is ready", async () => (await readyz(serving)).status === 200);
  shim.set({ away: CKR.DEVICE_REMOVED });
  await until("it is not ready", async () => (await readyz(serving)).status === 503);
  expect(await endsSoon(serving)).toBeLessThan(10);
});

test("a PIN that was changed behind its back is tried once, and not at all when the next one would lock it", async () => {
  const FINAL_TRY = 0x20000;
  for (const [orders, tries] of [
    [{ loginCode: CKR.PIN_INCORRECT }, 1],
    [{ tokenFlags: FINAL_TRY }, 0],
  ] as const) {
    const install = await seededHsm(5, []);
    const { shim } = install.token;
    const serving = await install.serve("api-1", 1);
    shim.set({ ...orders, logins: 0, drops: shim.get("drops") + 1 });
    await until("it is not ready", async () => (await readyz(serving)).status === 503);
    await Bun.sleep(3000);
    expect({ orders, logins: shim.get("logins") }).toEqual({ orders, logins: tries });
    expect((await readyz(serving)).body.reason).toMatch(/PIN/);
    await stop(serving);
    expect(shim.get("logins")).toBe(tries);
  }
});

/** Exchanges the directories of two tokens, as whoever swaps a USB token or restores another backup does. */
function swapTokens(one: HsmInstall, other: HsmInstall): void {
  const [a, b] = [one, other].map(({ token }) => join(token.directory, "tokens")) as [string, string];
  renameSync(a, `${a}.away`);
  renameSync(b, a);
  renameSync(`${a}.away`, b);
}

test("another token of the same label with a key of the same name is never used", async () => {
  const install = await seededHsm(30, [], PATIENT);
  const { shim } = install.token;
  const other = await hsmInstall();
  await made(other, 1);
  const serving = await install.serve("api-1", 1);
  const service = await install.service(1);
  expect(await service.ask({ encrypt: "before", id: 1 })).toEqual({ version: 1 });

  // Away for long enough that the module is initialized again, and another token when it is back.
  const pull = async () => {
    shim.set({ away: CKR.DEVICE_REMOVED });
    await Promise.all([service.ask({ decrypt: 1 }), Bun.sleep(3000)]);
    swapTokens(install, other);
    shim.set({ away: 0, drops: shim.get("drops") + 1 });
  };
  await pull();
  await until("it is not ready", async () => (await readyz(serving)).status === 503);
  for (let round = 0; round < 10; round += 1) {
    const written = await service.ask({ encrypt: "under another key", id: 2 });
    expect(written.error).toBeDefined();
    expect((await service.ask({ decrypt: 1 })).error).toBeDefined();
    expect((await readyz(serving)).status).toBe(503);
    await Bun.sleep(200);
  }
  expect((await readyz(serving)).body.reason).toMatch(/is not the install's|certautopilot-kek-v1/);
  expect(await install.db.collection("live").countDocuments()).toBe(1);
  // Nor by a process or command that starts now.
  for (const words of [["serve"], ["kek", "rotate", "--to-version=2"], ["kek", "pkcs11-init", "--version=1"]]) {
    const ran = await run(words, install.variables(1));
    expect([words, ran.code]).toEqual([words, 3]);
    expect(ran.stderr).toContain("error: ");
  }
  const strange = await run(["serve", "--json"], install.variables(1));
  expect(strange.json.error).toMatchObject({ code: "key_mismatch", message: expect.stringContaining("version 1") });
  const verified = await install.kek(["verify"], 1);
  expect(verified.code).toBe(3);
  expect(JSON.stringify(verified.json.problems)).toContain("is not the install's");

  await pull();
  await until("it is ready again", async () => (await readyz(serving)).status === 200);
  expect(await service.ask({ decrypt: 1 })).toEqual({ text: "before" });
  expect(await service.ask({ right: true })).toEqual({ right: 30 });
  await service.leave();
  await stop(serving);
});

test("in a fleet that rotates, a token that was swapped gives no wrap that is stored", async () => {
  const install = await seededHsm(600, [2], PATIENT);
  const { shim } = install.token;
  const other = await hsmInstall();
  for (const version of [1, 2]) await made(other, version);
  const running = start(
    ["kek", "rotate", "--to-version=2", "--json", "--max-rate=100", "--batch-size=20"],
    install.variables(2),
  );
  await movedTo(install, 2, 60);
  shim.set({ away: CKR.DEVICE_REMOVED });
  await Bun.sleep(2500);
  swapTokens(install, other);
  shim.set({ away: 0, drops: shim.get("drops") + 1 });
  const ran = await running.exited;
  expect(ran.code).not.toBe(0);
  expect(await install.db.collection("audit_log").countDocuments({ event: "record.failed" })).toBe(0);
  swapTokens(install, other);
  await until("it resumes", async () => (await install.kek(["rotate", "--to-version=2"], 2)).code === 0);
  await proveHsm(install, 2, 600);
});

/** SoftHSM has no command for it: the label stands in the token's file, padded to 32 bytes. */
function relabel(tokens: string, from: string, to: string): void {
  const [serial] = readdirSync(tokens) as [string];
  const file = join(tokens, serial, "token.object");
  const bytes = readFileSync(file);
  const at = bytes.indexOf(from.padEnd(32));
  expect(at).toBeGreaterThan(0);
  bytes.write(to.padEnd(32), at);
  writeFileSync(file, bytes);
}

test("the module's path and the token's label may change between runs: the key decides", async () => {
  const install = await seededHsm(30, []);
  const { directory: moved, configuration } = copyOf(install.token, "moved");
  relabel(join(moved, "tokens"), "certautopilot", "another name");
  const module = join(moved, "vendor-module.so");
  copyFileSync(SOFTHSM, module);
  const over = {
    SOFTHSM2_CONF: configuration,
    CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: module,
    CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: "another name",
  };
  expect(dirname(module)).toBe(moved);
  const serving = await install.serve("api-1", 1, { over });
  const service = await install.service(1, over);
  expect(await service.ask({ right: true })).toEqual({ right: 30 });
  expect(await service.ask({ encrypt: "written there", id: 1 })).toEqual({ version: 1 });
  await service.leave();
  expect((await install.kek(["verify"], 1, over)).json).toMatchObject({ ready: true, problems: [] });
  await stop(serving);
  // And back: the same key under the first name.
  const first = await install.service(1);
  expect(await first.ask({ decrypt: 1 })).toEqual({ text: "written there" });
  await first.leave();
});

test("on a fresh database it does not begin by itself: it says how", async () => {
  const install = await hsmInstall();
  await changesNothing(install.db, async () => {
    const ran = await run(["serve"], install.variables(1));
    expect(ran.code).not.toBe(0);
    expect(ran.stderr).toMatch(/error: [^\n]+\nhint: [^\n]*kek pkcs11-init --version=1/);
  });
  expect(await install.db.collection("kek_install").countDocuments()).toBe(0);
  // Nor with somebody's key of that name in the token.
  const other = await hsmInstall({}, install.token);
  await made(other, 1);
  const ran = await run(["serve"], install.variables(1));
  expect([ran.code === 0, await install.db.collection("kek_install").countDocuments()]).toEqual([false, 0]);
});

test("it refuses to start without a key that the state needs, and names the version", async () => {
  const install = await seededHsm(200, [2]);
  const { token } = install;
  const remove = (label: string) => token.tool("--delete-object", "--type", "secrkey", "--label", label);
  const tokens = join(token.directory, "tokens");
  cpSync(tokens, `${tokens}.whole`, { recursive: true });
  const restore = () => {
    renameSync(tokens, `${tokens}.${Math.random()}`);
    cpSync(`${tokens}.whole`, tokens, { recursive: true });
  };
  remove(V1);
  expect(keksIn(token)).toEqual(["certautopilot-kek-v2"]);
  const lacking = await run(["serve", "--json"], install.variables(1));
  expect([lacking.code, lacking.json.error.code]).toEqual([2, "key_missing"]);
  expect(lacking.json.error.message).toMatch(/version 1|kek-v1/);

  // A key of that name which is not the one: made by somebody's hand, readable, or twice.
  const keygen = (...words: string[]) => token.tool("--keygen", "--key-type", "aes:32", "--label", V1, ...words);
  expect(keygen("--id", "01", "--sensitive", "--usage-decrypt").code).toBe(0);
  const another = await run(["serve", "--json"], install.variables(1));
  expect([another.code, another.json.error.code]).toEqual([3, "key_mismatch"]);
  remove(V1);
  expect(keygen("--id", "02", "--extractable", "--usage-decrypt").code).toBe(0);
  const readable = await run(["serve", "--json"], install.variables(1));
  expect(["key_invalid", "key_mismatch"]).toContain(readable.json.error.code);
  restore();
  expect(keygen("--id", "03", "--usage-decrypt").code).toBe(0);
  const twice = await run(["serve", "--json"], install.variables(1));
  expect(twice.json.error.code).toBe("key_invalid");
  expect(twice.json.error.message).toMatch(/2 keys|two keys/);
  expect(keysIn(token).filter(({ label }) => label === V1)).toHaveLength(2);
  restore();

  // In a rotation both are needed.
  const running = start(["kek", "rotate", "--to-version=2", "--max-rate=50", "--batch-size=10"], install.variables(2));
  await movedTo(install, 2, 20);
  running.kill("SIGKILL");
  await running.exited;
  for (const [label, version] of [
    [V1, 1],
    ["certautopilot-kek-v2", 2],
  ] as const) {
    remove(label);
    const ran = await run(["serve", "--json"], install.variables(2));
    expect([ran.code, ran.json.error.code]).toEqual([2, "key_missing"]);
    expect(ran.json.error.message).toMatch(new RegExp(`version ${version}|kek-v${version}`));
    expectRefusal(ran, { exit: 2, code: "key_missing", error: /kek-v|version/ }, true);
    restore();
  }
  expect((await install.kek(["rotate", "--to-version=2"], 2)).code).toBe(0);
  await proveHsm(install, 2, 200);
});
