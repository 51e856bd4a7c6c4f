import { expect, test } from "bun:test";
import { chmodSync, renameSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { addressOf, type HsmInstall, readyz, seededHsm } from "../harness/hsm_install.ts";
import { type Running, run, start, stop, until, type Variables } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { PIN, pinHash } from "../harness/token.ts";

/** A PIN that is changed under a running fleet: who tries which PIN, and how often. */

const scratch = scratchDirectory();
const NEW_PIN = "hsm-pin-changed-161803";
const TIMES = { leaseMs: 10_000, evictionMs: 20_000 };
let files = 0;

function pinFile(pin: string): string {
  files += 1;
  const path = join(scratch, `pin-${files}`);
  replace(path, pin);
  return path;
}

/** As a configuration manager does: a new file in the place of the old one. */
function replace(path: string, pin: string): void {
  writeFileSync(`${path}.new`, `${pin}\n`);
  chmodSync(`${path}.new`, 0o600);
  renameSync(`${path}.new`, path);
}

function changePin(install: HsmInstall): void {
  install.token.shim.set({ pinHash: pinHash(NEW_PIN) });
}

function withFile(install: HsmInstall, path: string): Variables {
  const { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: _, ...variables } = install.variables(1);
  return { ...variables, CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE: path };
}

async function serveWith(install: HsmInstall, name: string, path: string): Promise<Running> {
  const running = start(["serve"], { ...withFile(install, path), CERTAUTOPILOT_INSTANCE_NAME: name });
  await running.says(" is ready on ");
  return running;
}

const ready = async (fleet: Running[]) =>
  (await Promise.all(fleet.map(readyz))).filter(({ status }) => status === 200).length;

/** The token loses every session and login, as after a restart of the HSM. */
function reset(install: HsmInstall): void {
  install.token.shim.set({ drops: install.token.shim.get("drops") + 1 });
}

test("a PIN changed at the token and in the file, then a reset: five processes go on, no wrong PIN is sent", async () => {
  const install = await seededHsm(20, [], TIMES);
  const path = pinFile(PIN);
  const fleet = await Promise.all([1, 2, 3, 4, 5].map((n) => serveWith(install, `api-${n}`, path)));
  changePin(install);
  replace(path, NEW_PIN);
  const { shim } = install.token;
  shim.set({ logins: 0, wrongPins: 0 });
  reset(install);
  await until("each has logged in", async () => shim.get("logins") >= 5);
  await until("all are ready", async () => (await ready(fleet)) === 5);
  expect(shim.get("wrongPins")).toBe(0);
  await stop(...fleet);
});

test("a reset before the file is changed: one process sends the old PIN, and all go on once it is replaced", async () => {
  const install = await seededHsm(20, [], TIMES);
  const path = pinFile(PIN);
  const fleet = await Promise.all([1, 2, 3, 4, 5].map((n) => serveWith(install, `api-${n}`, path)));
  changePin(install);
  const { shim } = install.token;
  shim.set({ logins: 0, wrongPins: 0 });
  reset(install);
  await until("none is ready", async () => (await ready(fleet)) === 0);
  const reasons = await Promise.all(fleet.map(async (each) => (await readyz(each)).body.reason));
  for (const reason of reasons) expect(reason).toMatch(/the PIN was refused|the token refused a PIN at/);
  // A start, and a command, with the same file: nothing is sent.
  expect((await run(["serve"], withFile(install, path))).code).toBe(8);
  const verified = await run(["kek", "verify", "--json"], withFile(install, path));
  expect([verified.code, verified.json.error.code]).toEqual([8, "hsm_pin"]);
  expect(shim.get("wrongPins")).toBe(1);
  expect(await install.db.collection("kek_logins").countDocuments()).toBe(1);

  // A second wrong one is sent once as well.
  replace(path, "another-wrong-pin-1");
  await until("it is sent", async () => shim.get("wrongPins") === 2);
  const beats = await install.db.collection("process_heartbeats").find().toArray();
  await until("each has looked since", async () => {
    const now = await install.db.collection("process_heartbeats").find().toArray();
    return now.every(({ updated_at }) => updated_at.getTime() > (beats[0]?.["updated_at"].getTime() ?? 0) + 2000);
  });
  expect(shim.get("wrongPins")).toBe(2);

  replace(path, NEW_PIN);
  await until("all are ready", async () => (await ready(fleet)) === 5);
  expect(shim.get("wrongPins")).toBe(2);
  // Nothing is kept once the PIN that was refused is replaced.
  await until(
    "the refusal is forgotten",
    async () => (await install.db.collection("kek_logins").countDocuments()) === 0,
  );
  await stop(...fleet);
}, 180_000);

test("hosts with files of their own: the one that has the new PIN continues, the others send the old one once in all", async () => {
  const install = await seededHsm(5, [], TIMES);
  const paths = [pinFile(PIN), pinFile(PIN), pinFile(PIN)] as const;
  const fleet = await Promise.all(paths.map((path, index) => serveWith(install, `api-${index}`, path)));
  changePin(install);
  const { shim } = install.token;
  shim.set({ wrongPins: 0 });
  reset(install);
  await until("none is ready", async () => (await ready(fleet)) === 0);
  expect(shim.get("wrongPins")).toBe(1);
  replace(paths[0], NEW_PIN);
  await until("the first is ready", async () => (await readyz(fleet[0] as Running)).status === 200);
  // Accepted there: a file that was never tried since is tried once; a refused one never.
  for (const path of paths.slice(1)) replace(path, NEW_PIN);
  await until("all are ready", async () => (await ready(fleet)) === 3);
  expect(shim.get("wrongPins")).toBeLessThanOrEqual(2);
  await stop(...fleet);
}, 180_000);

test("a right file that was blocked by another host's refusal is tried when it is touched", async () => {
  const install = await seededHsm(5, [], TIMES);
  const right = pinFile(PIN);
  const serving = await serveWith(install, "api-1", right);
  const { shim } = install.token;
  shim.set({ wrongPins: 0 });
  const wrong = pinFile("a-wrong-pin-271828");
  expect((await run(["kek", "verify"], withFile(install, wrong))).code).toBe(8);
  expect(shim.get("wrongPins")).toBe(1);
  // Its login holds: nothing is sent again.
  expect((await readyz(serving)).status).toBe(200);
  reset(install);
  await until("it is not ready", async () => (await readyz(serving)).status === 503);
  expect((await readyz(serving)).body.reason).toMatch(/the token refused a PIN at/);
  utimesSync(right, new Date(), new Date());
  await until("it is ready", async () => (await readyz(serving)).status === 200);
  expect(shim.get("wrongPins")).toBe(1);
  expect(addressOf(serving)).toMatch(/^http/);
  await stop(serving);
});
