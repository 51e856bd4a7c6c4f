import { expect, test } from "bun:test";
import { copyFileSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hsmInstall } from "../harness/hsm_install.ts";
import { until } from "../harness/program.ts";

/** The file that SoftHSM leaves empty when a process is killed around C_Login: it is named, and its copy brings the token back. */
test("an empty token.object is named, and its copy brings every key back", async () => {
  const install = await hsmInstall();
  expect((await install.kek(["pkcs11-init", "--version=1"])).code).toBe(0);
  const directory = join(install.token.directory, "tokens");
  const [file = ""] = readdirSync(directory).map((token) => join(directory, token, "token.object"));
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
  const directory = join(install.token.directory, "tokens");
  const [file = ""] = readdirSync(directory).map((token) => join(directory, token, "token.object"));
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
