import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type HsmInstall, hsmInstall, proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { stop, until } from "../harness/program.ts";

/** SoftHSM's file of the install's token. */
function tokenFile(install: HsmInstall): string {
  const directory = join(install.token.directory, "tokens");
  const [file = ""] = readdirSync(directory).map((token) => join(directory, token, "token.object"));
  return file;
}

/** The file that SoftHSM leaves empty when a process is killed around C_Login: it is named, and its copy brings the token back. */
test("an empty token.object is named, and its copy brings every key back", async () => {
  const install = await hsmInstall();
  expect((await install.kek(["pkcs11-init", "--version=1"])).code).toBe(0);
  const file = tokenFile(install);
  copyFileSync(file, `${file}.copy`);
  truncateSync(file, 0);
  const broken = await install.kek(["pkcs11-init", "--version=2"]);
  expect([broken.code, broken.stderr]).toEqual([8, expect.stringContaining(`and ${file} is empty`)]);
  expect(broken.stderr).toContain("hint: put your copy of that file back");
  copyFileSync(`${file}.copy`, file);
  const again = await install.kek(["pkcs11-init", "--version=2"]);
  expect([again.code, again.stderr]).toEqual([0, expect.any(String)]);
});

/** SoftHSM empties the file before it writes it: another process that starts at that moment sees no such token. */
test("a token.object that another process is writing delays a command and fails none", async () => {
  const install = await hsmInstall();
  expect((await install.kek(["pkcs11-init", "--version=1"])).code).toBe(0);
  const file = tokenFile(install);
  const whole = readFileSync(file);
  const { shim } = install.token;
  const before = shim.get("calls");
  truncateSync(file, 0);
  const command = install.kek(["pkcs11-init", "--version=2"]);
  let ended = false;
  void command.then(() => (ended = true));
  // C_Initialize has read the empty file when C_GetSlotList comes after it.
  await until("the command has looked for the token", async () => ended || shim.get("calls") >= before + 2);
  writeFileSync(file, whole);
  const ran = await command;
  expect([ran.code, ran.stderr]).toEqual([0, expect.any(String)]);
});

const BACKUP = "CERTAUTOPILOT_ENCRYPTION_PKCS11_SOFTHSM_BACKUP_DIR";

test("with softhsm_backup_dir each login leaves a copy, and the command of the hint brings every key back", async () => {
  const install = await seededHsm(40);
  const file = tokenFile(install);
  // A name that a shell would take apart.
  const backup = join(install.token.directory, "it's kept");
  const over = { [BACKUP]: backup };
  const copy = join(backup, file.split("/").at(-2) ?? "", "token.object");

  // Several processes, each with several sessions.
  const fleet = await Promise.all(["api-1", "api-2", "api-3"].map((name) => install.serve(name, 2, { over })));
  expect(readFileSync(copy).length).toBe(statSync(file).size);
  expect([statSync(copy).mode & 0o777, statSync(dirname(copy)).mode & 0o777, statSync(backup).mode & 0o777]).toEqual([
    0o600, 0o700, 0o700,
  ]);
  expect(readdirSync(dirname(copy))).toEqual(["token.object"]);
  await stop(...fleet);

  const kept = readFileSync(copy);
  truncateSync(file, 0);
  const broken = await install.kek(["verify"], 2, over);
  expect([broken.code, broken.stderr]).toEqual([8, expect.stringContaining(`and ${file} is empty`)]);
  // Nothing that is empty replaces a copy.
  expect(readFileSync(copy).equals(kept)).toBe(true);
  const [, command = ""] = /^hint: run: (.*)$/m.exec(broken.stderr) ?? [];
  expect(spawnSync("sh", ["-c", command], { encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
  await proveHsm(install, 1, 40);
  const [again] = await Promise.all([install.serve("api-1", 2, { over })]);
  expect((await install.kek(["rotate", "--to-version=2"], 2, over)).json).toMatchObject({ state: "completed" });
  await stop(again);
});

test("a copy is not made of a file that was cut short, and a directory that cannot be written to is named", async () => {
  const install = await hsmInstall();
  expect((await install.kek(["pkcs11-init", "--version=1"])).code).toBe(0);
  const file = tokenFile(install);
  const name = file.split("/").at(-2) ?? "";
  const backup = join(install.token.directory, "backup");
  const over = { [BACKUP]: backup };

  // An earlier copy that is incomplete is no reverse rotation.
  mkdirSync(join(backup, name), { recursive: true });
  const whole = readFileSync(file);
  writeFileSync(join(backup, name, "token.object"), whole.subarray(0, 100));
  truncateSync(file, 0);
  const broken = await install.kek(["pkcs11-init", "--version=2"], undefined, over);
  expect([broken.code, broken.stderr]).toEqual([8, expect.stringContaining("hint: put your copy of that file back")]);
  writeFileSync(file, whole);

  // A file where the directory should be: also for root, whom no mode stops.
  const file2 = join(install.token.directory, "a-file");
  writeFileSync(file2, "");
  const refused = await install.kek(["pkcs11-init", "--version=2"], undefined, { [BACKUP]: file2 });
  expect([refused.code, refused.stderr]).toEqual([8, expect.stringContaining(`cannot be copied to ${file2}: `)]);
  expect((await install.kek(["pkcs11-init", "--version=2"], undefined, over)).code).toBe(0);
  expect(statSync(join(backup, name, "token.object")).size).toBe(whole.length);
});
