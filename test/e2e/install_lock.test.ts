import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { KekError, openFieldEncryption } from "../../src/index.ts";
import { libraryConfig } from "../harness/library.ts";
import { kekHex, run, stop, type TestInstall, testInstall, type Variables } from "../harness/program.ts";
import { changesNothing, dump, expectRefusal, expectSilentAbout, type Refusal, refuses } from "../harness/refusal.ts";
import { events, seededInstall, versionStates } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/**
 * The provider is locked with the first start, for ever: the first contract message. And who may not
 * serve leaves nothing behind in a database: neither a lock nor a version.
 */

const COMMANDS = [
  ["serve"],
  ["kek", "verify"],
  ["kek", "verify", "--target=2"],
  ["kek", "rotate", "--to-version=2", "--no-backup-check"],
  ["kek", "rotate", "--cancel"],
  ["kek", "status"],
  ["kek", "remove", "--version=2"],
  ["audit", "verify"],
];
const OTHER_KEY = kekHex();
const KEK = "CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V";
const CONFIG = join(scratchDirectory(), "config.yaml");
writeFileSync(CONFIG, "encryption:\n  provider: pkcs11\n");

function mismatch(installed: string, since: string, configured: string): string {
  return `KEK provider mismatch: installed="${installed}" (since ${since}) but config says "${configured}". Provider is immutable after install.`;
}

/** Word for word, exit 4, from every command and the library; nothing is written. */
async function expectLocked(install: TestInstall, message: string, provider: "env" | "pkcs11", over: Variables) {
  const operator = install.variables([1, 2], 2, over);
  const secrets = Object.values(install.keks);
  const literal = new RegExp(`^error: ${message.replaceAll(/[.()"]/g, "\\$&")}$`);
  const refusal: Refusal = { exit: 4, code: "provider_mismatch", error: literal, hint: /ENCRYPTION_PROVIDER=/ };
  await changesNothing(install.db, async () => {
    for (const argv of COMMANDS) {
      const [plain, json] = await Promise.all([run(argv, operator), run([...argv, "--json"], operator)]);
      expectRefusal(plain, refusal, false);
      expectRefusal(json, refusal, true);
      for (const ran of [plain, json]) expectSilentAbout(ran, secrets);
    }
    const config = libraryConfig(install, [1, 2], 2);
    const opened = openFieldEncryption({ ...config, encryption: { ...config.encryption, provider } });
    const thrown = await opened.then((kek) => kek.close()).catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(KekError);
    expect(thrown).toMatchObject({ code: "provider_mismatch", message, exit: "lock" });
  });
}

/** A database that `kek pkcs11-init` has locked, with an HSM's key as its active version. */
async function pkcs11Install(): Promise<TestInstall> {
  const install = await testInstall();
  const locked_at = new Date("2026-05-01T09:00:00.250Z");
  const lock = { provider: "pkcs11", install_id: crypto.randomUUID(), locked_at, locked_by: "pkcs11-init" };
  await install.db.collection<{ _id: string }>("kek_install").insertOne({ _id: "kek_install", ...lock });
  return install;
}

async function envInstall(): Promise<{ install: TestInstall; since: string }> {
  const install = await testInstall();
  await stop(await install.serve("first", [1, 2], 1));
  const [lock] = await install.db.collection("kek_install").find().toArray();
  return { install, since: `${(lock?.["locked_at"] as Date).toISOString().slice(0, 19)}Z` };
}

test("the first start locks the provider once, and no later start writes the lock again", async () => {
  const { install } = await envInstall();
  const locks = () => install.db.collection("kek_install").find().toArray();
  const before = await locks();
  expect(before).toMatchObject([{ _id: "kek_install", provider: "env", locked_by: "service" }]);
  const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  expect(before[0]?.["install_id"]).toMatch(UUID);
  expect(Math.abs((before[0]?.["locked_at"] as Date).getTime() - Date.now())).toBeLessThan(30_000);
  await stop(await install.serve("second", [1, 2], 1));
  expect(await locks()).toEqual(before);
  expect(await events(install, "install.locked")).toHaveLength(1);
});

test("a pkcs11 variable against an env database: refused word for word by every command and the library", async () => {
  const { install, since } = await envInstall();
  const over = { CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11" };
  await expectLocked(install, mismatch("env", since, "pkcs11"), "pkcs11", over);
});

test("a pkcs11 config.yaml against an env database: the same refusal", async () => {
  const { install, since } = await envInstall();
  await expectLocked(install, mismatch("env", since, "pkcs11"), "pkcs11", { CERTAUTOPILOT_CONFIG: CONFIG });
});

test("an env configuration against a pkcs11 database: the contract message, to the letter", async () => {
  const install = await pkcs11Install();
  const message =
    'KEK provider mismatch: installed="pkcs11" (since 2026-05-01T09:00:00Z) but config says "env". Provider is immutable after install.';
  expect(mismatch("pkcs11", "2026-05-01T09:00:00Z", "env")).toBe(message);
  await expectLocked(install, message, "env", {});
});

test("the lock is checked before the keys: a wrong provider is named even where every key is missing or bad", async () => {
  const install = await pkcs11Install();
  const bad = install.variables([], 2, { CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: "no key" });
  for (const argv of [["serve"], ["kek", "verify"]]) {
    const ran = await changesNothing(install.db, () => run(argv, bad));
    expectRefusal(ran, { exit: 4, code: "provider_mismatch", error: /installed="pkcs11"/ }, false);
  }
});

const stranger = (other: TestInstall) => other.variables([3, 4], 1, { [`${KEK}1`]: kekHex(), [`${KEK}2`]: kekHex() });

test("serve with the keys of another install stages none of them here", async () => {
  const other = await seededInstall(5);
  await refuses(other, ["serve"], stranger(other), { exit: 3, code: "key_mismatch", error: /KEK version 1\b/ });
  expect(await versionStates(other)).toEqual({ 1: "active", 2: "staged" });
});

test("kek rotate with the keys of another install stages none of them here", async () => {
  const other = await seededInstall(5);
  const refusal = { exit: 3, code: "refused", error: /KEK version [13]\b/ };
  const events = ["rotation.refused"];
  await refuses(other, ["kek", "rotate", "--to-version=3", "--no-backup-check"], stranger(other), refusal, { events });
  expect(await versionStates(other)).toEqual({ 1: "active", 2: "staged" });
});

test("serve without any KEK leaves a fresh database unlocked and empty", async () => {
  const fresh = await testInstall();
  const refusal = { exit: 2, code: "config_invalid", error: /KEK/, hint: /KEK_V1/ };
  await refuses(fresh, ["serve"], fresh.variables([]), refusal);
  expect(await dump(fresh.db)).toEqual({});
});

test("serve without the key of the version it declares leaves a fresh database unlocked and empty", async () => {
  const fresh = await testInstall();
  await refuses(fresh, ["serve"], fresh.variables([2], 1), { exit: 2, code: "key_missing", error: /KEK version 1\b/ });
  expect(await dump(fresh.db)).toEqual({});
});

test("a dry run stages nothing, even where this shell is the first to hold the version", async () => {
  const other = await testInstall();
  await stop(await other.serve("first", [1], 1));
  const argv = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--dry-run"];
  const ran = await changesNothing(other.db, () => run(argv, other.variables([1, 2], 2)));
  expect(ran.code).toBe(0);
});

test("serve refuses to start without the active version's key, or with other bytes under it", async () => {
  const other = await seededInstall(5);
  const missing = { exit: 2, code: "key_missing", error: /KEK version 1\b/, hint: /KEK_V1/ };
  await refuses(other, ["serve"], other.variables([2], 2), missing);
  const wrong = { exit: 3, code: "key_mismatch", error: /KEK version 1\b/, hint: /version 1/ };
  const secrets = [OTHER_KEY];
  await refuses(other, ["serve"], other.variables([1, 2], 2, { [`${KEK}1`]: OTHER_KEY }), wrong, { secrets });
});
