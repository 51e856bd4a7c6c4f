import { expect, test } from "bun:test";
import { getPriority } from "node:os";
import type { Document } from "mongodb";
import {
  type HsmInstall,
  hsmInstall,
  keksIn,
  keysIn,
  made,
  proveHsm,
  readyz,
  seededHsm,
} from "../harness/hsm_install.ts";
import { nicesOf } from "../harness/process_watch.ts";
import { run, start, stop, until } from "../harness/program.ts";
import { changesNothing } from "../harness/refusal.ts";
import { movedTo, newestRotation, versionStates } from "../harness/schedule.ts";
import { copyOf } from "../harness/token.ts";

/** Keys that are missing, double, somebody else's, or made at an odd moment: what each command does about them. */

const label = (version: number) => `certautopilot-kek-v${version}`;
const ROTATE = ["rotate", "--to-version=2"];

function destroy(install: HsmInstall, version: number): void {
  const { code } = install.token.tool("--delete-object", "--type", "secrkey", "--label", label(version));
  expect(code).toBe(0);
}

/** A key of a KEK's name that nobody of this program made. */
function plant(install: HsmInstall, version: number): void {
  const words = ["--keygen", "--key-type", "aes:32", "--label", label(version), "--id", "aa", "--sensitive"];
  expect(install.token.tool(...words, "--usage-decrypt").code).toBe(0);
}

const problemsOf = (json: { problems: Document[] }) => json.problems.map(({ message }) => message).join("\n");

test("a staged version whose key is gone stops no process; verify and rotate name it", async () => {
  const install = await seededHsm(30);
  const serving = await install.serve("api-1", 2);
  await until("it holds both", async () => (await install.kek(["verify", "--target=2"], 2)).code === 0);
  destroy(install, 2);
  await stop(serving);
  const again = await install.serve("api-1", 2);
  expect((await readyz(again)).status).toBe(200);
  const verified = await install.kek(["verify", "--target=2"], 2);
  expect(verified.code).toBe(3);
  expect(problemsOf(verified.json)).toMatch(/api-1 .*version 2|kek-v2/);
  const refused = await install.kek(ROTATE, 2);
  expect([refused.code, await install.db.collection("kek_rotations").countDocuments()]).toEqual([3, 0]);
  // Forgotten and made again, it is another key, and the running process takes it.
  expect((await install.kek(["remove", "--version=2"], 2)).code).toBe(0);
  await made(install, 2);
  await until("it holds both", async () => (await install.kek(["verify", "--target=2"], 2)).code === 0);
  expect((await install.kek(ROTATE, 2)).code).toBe(0);
  await stop(again);
  await proveHsm(install, 2, 30);
});

test("a copy of the token from before a key was made does not pass for its backup; a whole one does", async () => {
  const install = await hsmInstall();
  const copied = (name: string) => ({ SOFTHSM2_CONF: copyOf(install.token, name).configuration });
  const first = await made(install, 1);
  expect([first.code, first.json.locked_now]).toEqual([0, true]);
  await install.serve("api-1", 1);
  const before = copied("before");
  await made(install, 2);
  const whole = copied("whole");
  const lacking = "this command: there is no key of KEK version 2, which was made for a rotation to come";
  for (const words of [["verify"], ["verify", "--target=2"]]) {
    const old = await install.kek(words, 1, before);
    expect([old.code, problemsOf(old.json).includes(lacking)]).toEqual([3, true]);
    // That not every process declares version 2 yet is another matter.
    expect(problemsOf((await install.kek(words, 1, whole)).json)).not.toContain("this command");
  }
  expect((await install.kek(["verify"], 1, whole)).code).toBe(0);
});

test("a second key of a version's name is never used, and never destroyed", async () => {
  const install = await seededHsm(30);
  plant(install, 2);
  const running = await install.serve("api-1", 2);
  const verified = await install.kek(["verify", "--target=2"], 2);
  expect(verified.code).toBe(3);
  const init = await install.kek(["pkcs11-init", "--version=2"]);
  expect([init.code, init.json.error.code]).toEqual([3, "refused"]);
  expect(init.json.error.message).toContain("ids there:");
  expect((await install.kek(ROTATE, 2)).code).toBe(3);
  await stop(running);
  const foreign = () => keysIn(install.token).filter(({ id }) => id === "aa").length;
  expect(foreign()).toBe(1);
  // Once it is gone, all is as before; planted beside a key that is to be destroyed, it stays.
  const { code } = install.token.tool("--delete-object", "--type", "secrkey", "--id", "aa");
  expect(code).toBe(0);
  expect((await install.kek(ROTATE, 2)).code).toBe(0);
  plant(install, 1);
  const copied = await install.kek(["remove", "--version=1", "--keep-copy"], 2);
  expect([copied.code, copied.json.error.message]).toEqual([2, expect.stringContaining("never leaves its token")]);
  const removed = await install.kek(["remove", "--version=1"], 2);
  expect({ code: removed.code, stderr: removed.stderr }).toMatchObject({ code: 0 });
  expect(removed.json.destroyed).toHaveLength(1);
  expect(removed.json.remaining.join()).toContain("aa");
  expect([foreign(), keksIn(install.token)]).toEqual([1, [label(1), label(2)]]);
  await proveHsm(install, 2, 30);
});

test("a retired key that somebody has destroyed by hand: verify says what it is needed for, and remove that it found none", async () => {
  const install = await seededHsm(30);
  expect((await install.kek(ROTATE, 2)).code).toBe(0);
  destroy(install, 1);
  const running = await install.serve("api-1", 2);
  const back = await install.kek(["verify", "--target=1"], 2);
  expect(back.code).toBe(3);
  expect(problemsOf(back.json)).toContain("there is no key of KEK version 1, which a reverse rotation would need");
  const removed = await install.kek(["remove", "--version=1"], 2);
  expect({ code: removed.code, stderr: removed.stderr }).toMatchObject({ code: 0 });
  expect(removed.json).toMatchObject({ outcome: "destroyed", destroyed: [] });
  expect(removed.json.advice).toContain(`no key ${label(1)} in token`);
  expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
  const verified = await install.kek(["verify"], 2);
  expect({ code: verified.code, problems: verified.json.problems }).toEqual({ code: 0, problems: [] });
  await stop(running);
});

test("a version made while a rotation is open waits for its own", async () => {
  const install = await seededHsm(400);
  const running = await install.serve("api-1", 2);
  const rotating = start(["kek", ...ROTATE, "--json", "--max-rate=100", "--batch-size=20"], install.variables(2));
  await movedTo(install, 2, 50);
  await made(install, 3);
  expect((await rotating.exited).code).toBe(0);
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active", "3": "staged" });
  await stop(running);
  const next = await install.serve("api-1", 3);
  const on = await install.kek(["rotate", "--to-version=3"], 3);
  expect({ code: on.code, stderr: on.stderr }).toMatchObject({ code: 0 });
  await stop(next);
  await proveHsm(install, 3, 400);
});

test("Ctrl-C while the token hangs cancels the rotation", async () => {
  const install = await seededHsm(400);
  const { shim } = install.token;
  const rotating = start(["kek", ...ROTATE, "--json", "--max-rate=40", "--batch-size=20"], install.variables(2));
  await movedTo(install, 2, 50);
  // Whoever waits for a token comes last to it if it also comes last to the processor.
  expect(new Set(nicesOf(rotating.pid))).toEqual(new Set([getPriority()]));
  shim.set({ hang: 1 });
  await Bun.sleep(1000);
  rotating.kill("SIGINT");
  await until("it is cancelled", async () => (await newestRotation(install))["state"] === "cancelled");
  await Bun.sleep(1000);
  shim.set({ hang: 0 });
  expect((await rotating.exited).code).toBe(5);
  expect((await install.kek(ROTATE, 2)).code).toBe(0);
  await proveHsm(install, 2, 400);
});

test("a copy in a file cannot be verified where keys never leave the token", async () => {
  const install = await seededHsm(5);
  await changesNothing(install.db, async () => {
    const ran = await run(["kek", "verify", "--backup=/nowhere/copy.env", "--json"], install.variables(2));
    expect([ran.code, ran.json.error.code]).toEqual([2, "usage"]);
    expect(ran.json.error.message).toContain("never leave it");
  });
  const rotated = await install.kek(["rotate", "--to-version=2", "--require-backup"], 2);
  expect(rotated.code).toBe(3);
  expect(rotated.json.error.hint).toContain("leave --require-backup out");
});

test("a number that was given up in one install is free in another that shares the token", async () => {
  const install = await seededHsm(5);
  expect((await install.kek(["rotate", "--to-version=2", "--remove-old"], 2)).code).toBe(0);
  const other = await hsmInstall({}, install.token);
  await made(other, 1);
  expect(keksIn(install.token)).toEqual([label(1), label(2)]);
  // The first one does not touch it, although it has a version of that number.
  const again = await install.kek(["remove", "--version=1"], 2);
  expect(again.code).toBe(0);
  expect(again.json.destroyed).toEqual([]);
  expect(keksIn(install.token)).toEqual([label(1), label(2)]);
  const running = await other.serve("api-1", 1);
  expect((await readyz(running)).status).toBe(200);
  await stop(running);
  await proveHsm(install, 2, 5);
});
