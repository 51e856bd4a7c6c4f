import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Document } from "mongodb";
import { type HsmInstall, hsmInstall, keksIn, keysIn, made } from "../harness/hsm_install.ts";
import { type Ran, run, start, stop, testInstall, until, type Variables } from "../harness/program.ts";
import { changesNothing, eventsAfter, expectRefusal, expectSilentAbout, type Refusal } from "../harness/refusal.ts";
import { CALM } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { CKR, PIN, SOFTHSM, shimOver } from "../harness/token.ts";

/** `kek pkcs11-init`: what it leaves in MongoDB and in the token, and what it refuses before it touches either. */

const INIT = ["kek", "pkcs11-init", "--version=1"];
const MECHANISM = "CKM_AES_GCM";
const scratch = scratchDirectory();

/** The command, for a person and with --json: refused the same way, and nothing is written anywhere. */
async function refusesInit(install: HsmInstall, refusal: Refusal, over: Variables = {}, words = INIT): Promise<Ran> {
  const variables = install.variables(undefined, over);
  const keys = keysIn(install.token);
  return await changesNothing(install.db, async () => {
    const plain = await run(words, variables);
    const json = await run([...words, "--json"], variables);
    expectRefusal(plain, refusal, false);
    expectRefusal(json, refusal, true);
    for (const ran of [plain, json]) expectSilentAbout(ran, [PIN]);
    expect(keysIn(install.token)).toEqual(keys);
    return plain;
  });
}

async function versionDocs(install: HsmInstall): Promise<Document[]> {
  return await install.db.collection<Document>("kek_versions").find().sort({ _id: 1 }).toArray();
}

/** Exactly one key and one version of each number, and the one is the other's. */
async function expectMade(install: HsmInstall, versions: number[]): Promise<void> {
  const docs = await versionDocs(install);
  expect(docs.map(({ _id, state }) => [_id, state])).toEqual(versions.map((version) => [version, "staged"]));
  expect(keksIn(install.token)).toEqual(versions.map((version) => `certautopilot-kek-v${version}`).sort());
  const ids = new Map(keysIn(install.token).map(({ label, id }) => [label, id]));
  for (const doc of docs) expect(ids.get(doc["key_label"])).toBe(doc["key_id"].toString("hex"));
}

/** A command that has ended has closed its sessions and finalized the module. */
function expectGivenBack({ token: { shim } }: HsmInstall): void {
  expect([shim.get("sessions"), shim.get("finalized")]).toEqual([0, shim.get("initialized")]);
}

test("a fresh database is locked and version 1 staged; run again, its key is verified and nothing changes", async () => {
  const install = await hsmInstall();
  const ran = await run(INIT, install.variables());
  expect({ code: ran.code, stderr: ran.stderr }).toEqual({ code: 0, stderr: "" });
  expect(ran.stdout).toContain('locked for provider="pkcs11"');
  expectSilentAbout(ran, [PIN]);
  expect(install.token.shim.get("logins")).toBe(1);
  expectGivenBack(install);

  const [lock, ...others] = (await install.db.collection("kek_install").find().toArray()) as Document[];
  expect(others).toEqual([]);
  expect(lock).toEqual({
    _id: "kek_install",
    provider: "pkcs11",
    install_id: expect.stringMatching(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/),
    locked_at: expect.any(Date),
    locked_by: "pkcs11-init",
  });
  const [version] = await versionDocs(install);
  expect(version).toMatchObject({ _id: 1, provider: "pkcs11", state: "staged", mechanism: MECHANISM });
  expect(version?.["key_label"]).toBe("certautopilot-kek-v1");
  expect([version?.["canary"].length(), version?.["canary_digest"].length()]).toEqual([60, 32]);
  expect(version?.["wraps"]).toBeGreaterThanOrEqual(1);
  await expectMade(install, [1]);
  expect(await eventsAfter(install.db, 0)).toEqual(["install.locked", "version.staged"]);
  expect(await install.db.collection("kek_claims").countDocuments()).toBe(0);

  await changesNothing(install.db, async () => {
    const again = await run([...INIT, "--json"], install.variables());
    expect({ code: again.code, stderr: again.stderr }).toEqual({ code: 0, stderr: "" });
    expect(again.json).toMatchObject({ version: 1, state: "staged", already: true, locked_now: false });
    expect(again.json.key.id).toBe(version?.["key_id"].toString("hex"));
    expect((await run(INIT, install.variables())).stdout).toMatch(/version 1 is there already .*verified/);
  });
  // One key, made once; the probe's own keys are gone with their sessions.
  await expectMade(install, [1]);
});

test("two at once, and five, leave one key and one version", async () => {
  const install = await hsmInstall(CALM);
  for (const version of [1, 2, 3]) {
    const words = ["kek", "pkcs11-init", `--version=${version}`, "--json"];
    const both = await Promise.all([1, 2].map(() => run(words, install.variables())));
    expect(both.map((ran) => ({ code: ran.code, stderr: ran.code === 0 ? "" : ran.stderr }))).toEqual([
      { code: 0, stderr: "" },
      { code: 0, stderr: "" },
    ]);
    expect(both.map((ran) => ran.json.already).sort()).toEqual([false, true]);
  }
  const five = await Promise.all(
    [1, 2, 3, 4, 5].map(() => run(["kek", "pkcs11-init", "--version=4", "--json"], install.variables())),
  );
  expect(five.map((ran) => ({ code: ran.code, stderr: ran.code === 0 ? "" : ran.stderr }))).toEqual(
    Array(5).fill({ code: 0, stderr: "" }),
  );
  expect(five.filter((ran) => !ran.json.already)).toHaveLength(1);
  await expectMade(install, [1, 2, 3, 4]);
});

test("two that come to a fresh database, one slower than the other, leave one lock, one key and one version", async () => {
  const install = await hsmInstall(CALM);
  const { directory, shim } = install.token;
  // The slow one has a shim of its own over the same token, which takes its time over what is tried out.
  const control = join(directory, "slow");
  writeFileSync(control, readFileSync(join(directory, "control")));
  const slowShim = shimOver(control);
  slowShim.set({ latencyUs: 200_000 });
  const slow = start(INIT, install.variables(undefined, { SHIM_CONTROL: control }));
  await until("the slow one has begun", async () => slowShim.get("encrypts") > 0);
  const fast = await run(INIT, install.variables());
  // On a busy machine either may be first, or come to see the other's claim, and says so.
  const apart = ({ code, stderr }: Ran) => ({ code, stderr: stderr.replace(/^another pkcs11-init .*\n/, "") });
  const ran = await slow.exited;
  expect([apart(fast), apart(ran)]).toEqual([fast, ran].map(() => ({ code: 0, stderr: "" })));
  // One of the probe for each, and the KEK.
  expect(shim.get("generated") + slowShim.get("generated")).toBe(3);
  expect([fast, ran].filter(({ stdout }) => stdout.includes("version 1 is there already")).length).toBe(1);
  await expectMade(install, [1]);
});

/** OpenSC's spy between the program and the token writes each call down. */
const SPY = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so";
const spied = (name: string) => ({
  CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: SPY,
  PKCS11SPY: SOFTHSM,
  PKCS11SPY_OUTPUT: join(scratch, name),
});
const calls = (name: string) => (existsSync(join(scratch, name)) ? readFileSync(join(scratch, name), "utf8") : "");

test("on a database locked for env it says so, word for word, before it makes any call to the token", async () => {
  const env = await testInstall();
  await stop(await env.serve("first", [1], 1));
  const lockedAt = (await env.db.collection<Document>("kek_install").findOne({}))?.["locked_at"] as Date;
  const since = lockedAt.toISOString().replace(/\.\d+Z$/, "Z");
  const message = `refusing to run: this database is locked for provider="env" (since ${since} by service). pkcs11-init cannot run against a "env"-locked installation.`;
  const { token } = await hsmInstall();
  const variables = env.variables([], 1, { ...token.variables, ...spied("refused") });
  await changesNothing(env.db, async () => {
    const plain = await run(INIT, variables);
    expect([plain.code, plain.stdout, plain.stderr.split("\n")[0]]).toEqual([4, "", `error: ${message}`]);
    const json = await run([...INIT, "--json"], variables);
    expect([json.code, json.json.error.message, json.json.error.exit]).toEqual([4, message, 4]);
    // Also where the module cannot be loaded at all, nothing is configured, or the shell still says env.
    const nowhere = { CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: "/nowhere/module.so" };
    for (const over of [{ ...variables, ...nowhere }, env.variables([1], 1)]) {
      const ran = await run(INIT, over);
      expect([ran.code, ran.stderr.split("\n")[0]]).toEqual([4, `error: ${message}`]);
    }
    const serving = await run(["serve"], variables);
    const mismatch = `error: KEK provider mismatch: installed="env" (since ${since}) but config says "pkcs11". Provider is immutable after install.`;
    expect([serving.code, serving.stderr.split("\n")[0]]).toEqual([4, mismatch]);
  });
  expect(calls("refused")).toBe("");

  const fresh = await hsmInstall();
  expect((await run(INIT, fresh.variables(undefined, spied("fresh")))).code).toBe(0);
  expect(calls("fresh")).toContain("C_GenerateKey");
});

test("a database locked for pkcs11 refuses every command and process whose config says env", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  const lockedAt = (await install.db.collection<Document>("kek_install").findOne({}))?.["locked_at"] as Date;
  const since = lockedAt.toISOString().replace(/\.\d+Z$/, "Z");
  const message = `KEK provider mismatch: installed="pkcs11" (since ${since}) but config says "env". Provider is immutable after install.`;
  const env = { CERTAUTOPILOT_ENCRYPTION_PROVIDER: "env", CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: "ab".repeat(32) };
  const commands = [
    ["kek", "verify"],
    ["kek", "verify", "--target=1"],
    ["kek", "rotate", "--to-version=2"],
    ["kek", "rotate", "--cancel"],
    ["kek", "status"],
    ["kek", "remove", "--version=1"],
    ["kek", "pkcs11-init", "--version=2"],
    ["serve"],
  ];
  await changesNothing(install.db, async () => {
    for (const words of commands) {
      const ran = await run(words, install.variables(1, env));
      expect([words, ran.code, ran.stdout, ran.stderr.split("\n")[0]]).toEqual([words, 4, "", `error: ${message}`]);
    }
  });
});

test("a token label that nothing or more than one thing has: exit 8, and what is there", async () => {
  const install = await hsmInstall();
  install.token.addToken("the-other");
  const none = await refusesInit(
    install,
    { exit: 8, code: "hsm_token", error: /no token is labelled "nobody's"/, hint: /TOKEN_LABEL/ },
    { CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: "nobody's" },
  );
  for (const label of ["certautopilot", "the-other"]) expect(none.stderr.split("\n")[0]).toContain(`"${label}" (`);
  expect(install.token.shim.get("logins")).toBe(0);

  install.token.addToken("certautopilot");
  const two = await refusesInit(install, {
    exit: 8,
    code: "hsm_token",
    error: /2 tokens are labelled "certautopilot"/,
  });
  const serials = [...(two.stderr.split("\n")[0] ?? "").matchAll(/serial ([0-9a-f]+)/g)].map(([, serial]) => serial);
  expect(new Set(serials).size).toBe(2);
  expect(install.token.shim.get("logins")).toBe(0);
  // The shim's own file is not touched, the other token still works.
  const other = { CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: "the-other" };
  expect((await run(INIT, install.variables(undefined, other))).code).toBe(0);
});

test("a wrong PIN is tried once, a PIN that the next wrong one would lock is not tried", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  const wrongPin = "not-the-pin-27182818";
  const wrong = { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: wrongPin };
  await changesNothing(install.db, async () => {
    const ran = await run(INIT, install.variables(undefined, wrong));
    expectRefusal(ran, { exit: 8, code: "hsm_pin", error: /PIN was refused .*CKR_PIN_INCORRECT/ }, false);
    expectSilentAbout(ran, [PIN, wrongPin]);
  });
  expect(shim.get("logins")).toBe(1);
  expect(keysIn(install.token)).toEqual([]);

  // A command that a person gives a PIN in a variable sends it once. A service, which a supervisor restarts, does not after a refusal.
  await made(install, 1);
  for (const [words, tries] of [
    [["kek", "verify"], 1],
    [["kek", "rotate", "--to-version=2"], 1],
    [["kek", "remove", "--version=1"], 1],
    [["serve"], 0],
    [["serve"], 0],
  ] as const) {
    shim.set({ logins: 0 });
    const ran = await run([...words], install.variables(1, wrong));
    expect([words, ran.code, shim.get("logins")]).toEqual([words, 8, tries]);
    expectSilentAbout(ran, [PIN, wrongPin]);
  }
  const lockedAnswer = { loginCode: CKR.PIN_LOCKED, logins: 0 };
  shim.set(lockedAnswer);
  expect((await run(INIT, install.variables())).stderr).toContain("CKR_PIN_LOCKED");
  expect(shim.get("logins")).toBe(1);
  shim.set({ loginCode: 0 });

  const FLAGS = { finalTry: 0x20000, locked: 0x40000 };
  for (const [flag, words] of [
    [FLAGS.finalTry, /FINAL_TRY/],
    [FLAGS.locked, /user PIN is locked/],
  ] as const) {
    shim.set({ logins: 0, tokenFlags: flag });
    await refusesInit(install, { exit: 8, code: "hsm_pin", error: words });
    expect(shim.get("logins")).toBe(0);
  }
  shim.set({ tokenFlags: 0 });
  expect((await run(INIT, install.variables())).code).toBe(0);
});

test("what is not configured, not there, or not able is named", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  const without = (name: string) => {
    const variables = { ...install.token.variables };
    delete variables[`CERTAUTOPILOT_ENCRYPTION_PKCS11_${name}`];
    return { ...install.variables(), ...variables, [`CERTAUTOPILOT_ENCRYPTION_PKCS11_${name}`]: undefined as never };
  };
  const refused = async (variables: Variables, refusal: Refusal) => {
    const given = Object.fromEntries(Object.entries(variables).filter(([, value]) => value !== undefined));
    await changesNothing(install.db, async () => expectRefusal(await run(INIT, given), refusal, false));
  };
  await refused(without("MODULE_PATH"), { exit: 2, code: "config_invalid", error: /PKCS11_MODULE_PATH .*is not set/ });
  await refused(without("TOKEN_LABEL"), { exit: 2, code: "config_invalid", error: /PKCS11_TOKEN_LABEL .*is not set/ });
  await refused(without("PIN"), { exit: 8, code: "hsm_pin", error: /no PIN is given/, hint: /PIN_FILE/ });
  const env = { CERTAUTOPILOT_ENCRYPTION_PROVIDER: "env" };
  await refusesInit(install, { exit: 2, code: "config_invalid", error: /encryption.provider is "env"/ }, env);
  for (const path of ["/nowhere/module.so", "/etc/hostname"]) {
    const over = { CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: path };
    await refusesInit(install, { exit: 8, code: "hsm_module", error: new RegExp(path) }, over);
  }
  shim.set({ noGcm: 1 });
  await refusesInit(install, { exit: 8, code: "hsm_unfit", error: /CKM_AES_GCM not there/ });
  shim.set({ noGcm: 0, away: CKR.TOKEN_NOT_PRESENT });
  const pulled = await changesNothing(install.db, () => run(INIT, install.variables()));
  expect(pulled.code).toBe(8);
  shim.set({ away: 0 });
  // Nothing of all this has locked the database.
  expect(await install.db.collection("kek_install").countDocuments()).toBe(0);
  expect((await run(INIT, install.variables())).code).toBe(0);
});

test("a token that wants to make its IVs itself is told apart, and served when configured so", async () => {
  const install = await hsmInstall();
  const own = { CERTAUTOPILOT_ENCRYPTION_PKCS11_USE_GCM_IV_FROM_HSM: "true" };
  install.token.shim.set({ ivMode: 1, ivStrict: 1 });
  await refusesInit(install, { exit: 8, code: "hsm_unfit", error: /round trip/, hint: /use_gcm_iv_from_hsm/ });
  for (const ivMode of [1, 2]) {
    install.token.shim.set({ ivMode });
    await made(install, ivMode, own);
  }
  install.token.shim.set({ ivMode: 0, ivStrict: 0 });
  await refusesInit(install, { exit: 8, code: "hsm_unfit", error: /IVs are not made by the HSM/ }, own);
  // The wraps that the token made its IVs for open without it.
  await made(install, 1);
  await expectMade(install, [1, 2]);
});

test("another install's key of the same name is left alone, and the database stays fresh", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  const other = await hsmInstall({}, install.token);
  await refusesInit(other, { exit: 3, code: "refused", error: /already holds a key certautopilot-kek-v1/ });
  expect(await other.db.collection("kek_install").countDocuments()).toBe(0);
  // Next to it there is room for both.
  await made(other, 2);
  await refusesInit(install, { exit: 3, code: "refused", error: /already holds a key certautopilot-kek-v2/ }, {}, [
    "kek",
    "pkcs11-init",
    "--version=2",
  ]);
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v1", "certautopilot-kek-v2"]);
});

test("a version whose key is gone from the token is named, never made a second time", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  install.token.tool("--delete-object", "--type", "secrkey", "--label", "certautopilot-kek-v1");
  expect(keksIn(install.token)).toEqual([]);
  await refusesInit(install, { exit: 2, code: "key_missing", error: /does not hold certautopilot-kek-v1/ });
  expect(install.token.shim.get("generated")).toBeGreaterThan(0);
  expect(keksIn(install.token)).toEqual([]);
});

test("the key cannot be read, wrapped out or changed, and was born in the token", async () => {
  const install = await hsmInstall();
  const { token } = install;
  await made(install, 1);
  const [kek] = keysIn(token);
  expect(kek?.access).toBe("sensitive, always sensitive, never extractable, local");
  expect(kek?.usage).toBe("encrypt, decrypt");
  const id = kek?.id as string;
  // Beside it an ordinary key, so that it is seen that each of these can be done.
  const keygen = ["--keygen", "--key-type", "aes:32"];
  expect(token.tool(...keygen, "--label", "wrapping", "--id", "77", "--usage-wrap").code).toBe(0);
  expect(token.tool(...keygen, "--label", "plain", "--id", "78", "--extractable", "--usage-decrypt").code).toBe(0);
  const file = join(scratch, "wrapped");
  const out = (target: string) => [
    ...["--wrap", "--mechanism", "AES-KEY-WRAP", "--id", "77", "--application-id", target],
    ...["--output-file", file],
  ];
  expect(token.tool(...out("78"))).toMatchObject({ code: 0 });
  const wrapping = token.tool(...out(id));
  expect(wrapping.code).not.toBe(0);
  expect(wrapping.output).toMatch(/CKR_KEY_UNEXTRACTABLE|CKR_KEY_NOT_WRAPPABLE/);
  // Nor is it of any use for wrapping others out.
  const by = ["--wrap", "--mechanism", "AES-KEY-WRAP", "--id", id, "--application-id", "78", "--output-file", file];
  expect(token.tool(...by).code).not.toBe(0);

  const reading = token.tool("--read-object", "--type", "secrkey", "--id", id, "--output-file", file);
  expect(reading.code).not.toBe(0);
  expect(reading.output).toContain("CKR_ATTRIBUTE_SENSITIVE");
  expect(token.tool("--type", "secrkey", "--id", "78", "--set-id", "79").code).toBe(0);
  const changing = token.tool("--type", "secrkey", "--id", id, "--set-id", "79");
  expect(changing.code).not.toBe(0);
  expect(changing.output).toMatch(/CKR_ATTRIBUTE_READ_ONLY|CKR_ACTION_PROHIBITED|0x1b/);
  expect(keysIn(token).find(({ label }) => label === kek?.label)).toEqual(kek as never);
});

test("with two calls of a hundred failing every command does its work", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  shim.set({ failPpm: 20_000 });
  const failed: unknown[] = [];
  const doing = async (...words: string[]) => {
    let ran = await install.kek(words, 1);
    // A process whose login fails twice without a word about the PIN tries no third time (one in 2,500 here): the operator does.
    if (ran.code === 8 && ran.stderr.includes("the login failed")) ran = await install.kek(words, 1);
    if (ran.code !== 0) failed.push([words, ran.code, ran.stderr]);
  };
  const VERSIONS = [1, 2, 3, 4, 5, 6];
  for (const version of VERSIONS) {
    await doing("pkcs11-init", `--version=${version}`);
    await doing("pkcs11-init", `--version=${version}`);
  }
  const serving = await install.serve("api-1", 1);
  for (let round = 0; round < 10; round += 1) await doing("verify");
  await stop(serving);
  for (const version of [2, 3]) await doing("rotate", `--to-version=${version}`, `--from-version=${version - 1}`);
  for (const version of [1, 2]) await doing("remove", `--version=${version}`);
  shim.set({ failPpm: 0 });
  expect(failed).toEqual([]);
  expect(keksIn(install.token)).toEqual([3, 4, 5, 6].map((version) => `certautopilot-kek-v${version}`));
  expect(shim.get("overlaps")).toBe(0);
});

test("another audit secret is refused before a key is made: it could not be written down", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  const other = { CERTAUTOPILOT_AUDIT_SECRET: "another-secret-altogether" };
  const refusal = { exit: 2, code: "audit_secret", error: /AUDIT_SECRET is another one/, hint: /the fleet's/ };
  await refusesInit(install, refusal, other, ["kek", "pkcs11-init", "--version=2"]);
  expect(keksIn(install.token)).toEqual(["certautopilot-kek-v1"]);
  const verified = await run(["audit", "verify"], install.variables(undefined, other));
  expect([verified.code, verified.stdout]).toEqual([3, expect.stringMatching(/^no entry fits the secret[^\n]*\n$/)]);
});

test("hints name the step that helps: a free number, the first key, the module's configuration", async () => {
  const install = await hsmInstall();
  for (const words of [
    ["kek", "verify"],
    ["kek", "status"],
    ["kek", "rotate", "--to-version=2"],
  ]) {
    const fresh = await run(words, install.variables(1));
    const hint = /pkcs11-init --version=1.*certautopilot serve/;
    expectRefusal(fresh, { exit: 3, code: "not_installed", error: /holds no install/, hint }, false);
  }
  const empty = join(scratch, "empty.conf");
  mkdirSync(join(scratch, "no-tokens"));
  writeFileSync(empty, `directories.tokendir = ${join(scratch, "no-tokens")}\nlog.level = ERROR\n`);
  const none = { exit: 8, code: "hsm_token", error: /shows no token at all/, hint: /SOFTHSM2_CONF/ };
  await refusesInit(install, none, { SOFTHSM2_CONF: empty });

  for (const version of [1, 2, 3]) await made(install, version);
  await stop(await install.serve("api", 1));
  const rotate = ["kek", "rotate"];
  const unknown = await run([...rotate, "--to-version=9"], install.variables(1));
  expectRefusal(unknown, { exit: 3, code: "refused", error: /9 is not known/, hint: /pkcs11-init --version=9/ }, false);
  const backup = await run([...rotate, "--to-version=2", "--require-backup"], install.variables(1));
  const own = /the token's own backup.*leave --require-backup out/;
  expectRefusal(backup, { exit: 3, code: "refused", error: /no backup has been verified/, hint: own }, false);

  await install.db.collection("kek_versions").updateOne({ _id: 2 as never }, { $set: { state: "destroyed" } });
  const destroyed = { exit: 3, code: "refused", error: /version 2 was destroyed/, hint: /pkcs11-init --version=4$/ };
  await refusesInit(install, destroyed, {}, ["kek", "pkcs11-init", "--version=2"]);
  // A key that was made once is never told to be made again.
  install.token.tool("--delete-object", "--type", "secrkey", "--label", "certautopilot-kek-v1");
  const serve = await run(["serve"], install.variables(1));
  expectRefusal(serve, { exit: 2, code: "key_missing", error: /holds no key/, hint: /never made twice/ }, false);
});
