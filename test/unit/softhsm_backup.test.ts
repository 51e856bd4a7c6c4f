import { afterAll, beforeEach, expect, test } from "bun:test";
import { chownSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { backUpToken, restoreCommand } from "../../src/providers/pkcs11/softhsm_backup.ts";
import { tokenFiles } from "../../src/providers/pkcs11/softhsm_files.ts";
import { refusalOf } from "../harness/codes.ts";
import { SOFTHSM, testToken } from "../harness/token.ts";

/** What becomes a copy of SoftHSM's `token.object`, and what never does. The file is a real token's. */

const token = testToken();
const given = process.env["SOFTHSM2_CONF"];
process.env["SOFTHSM2_CONF"] = token.environment["SOFTHSM2_CONF"];
afterAll(() => {
  if (given === undefined) delete process.env["SOFTHSM2_CONF"];
  else process.env["SOFTHSM2_CONF"] = given;
  rmSync(token.directory, { recursive: true, force: true });
});

const [file = ""] = tokenFiles(SOFTHSM);
const whole = readFileSync(file);
const serial = basename(dirname(file)).replaceAll("-", "").slice(-16);
const backup = join(token.directory, "backup");
const copy = join(backup, basename(dirname(file)), "token.object");
beforeEach(() => {
  rmSync(backup, { recursive: true, force: true });
  writeFileSync(file, whole);
});

test("an intact file is copied, and a later one replaces the copy", () => {
  backUpToken(SOFTHSM, backup, serial);
  expect(readFileSync(copy).equals(whole)).toBe(true);
  const later = Buffer.from(whole);
  later.writeBigUInt64BE(later.readBigUInt64BE(0) + 1n);
  writeFileSync(file, later);
  backUpToken(SOFTHSM, backup, serial);
  expect(readFileSync(copy).equals(later)).toBe(true);
  expect(restoreCommand(file, backup)).toBe(`cp ${copy} ${file}`);
});

test("a file that is cut short anywhere, or longer than a token's, replaces no copy and becomes none", () => {
  backUpToken(SOFTHSM, backup, serial);
  // Ends of attributes too, where what is left reads well.
  const lengths = [0, 1, 8, 9, 24, 32, 64, 104, 128, 224, whole.length - 1];
  for (const content of [...lengths.map((length) => whole.subarray(0, length)), Buffer.concat([whole, whole])]) {
    writeFileSync(file, content);
    backUpToken(SOFTHSM, backup, serial);
    expect([content.length, readFileSync(copy).equals(whole)]).toEqual([content.length, true]);
  }
  rmSync(backup, { recursive: true });
  backUpToken(SOFTHSM, backup, serial);
  expect(restoreCommand(file, backup)).toBeUndefined();
});

test("while another process writes the file as SoftHSM does, every copy is intact", async () => {
  const write = `
    const { ftruncateSync, openSync, writeSync } = require("node:fs");
    const whole = Buffer.from(process.argv[2], "hex");
    const file = openSync(process.argv[1], "r+");
    for (let turn = 1n; ; turn += 1n) {
      whole.writeBigUInt64BE(turn);
      ftruncateSync(file, 0);
      writeSync(file, whole, 0, 100, 0);
      writeSync(file, whole, 100, whole.length - 100, 100);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }`;
  const copying = `
    const { backUpToken } = await import(${JSON.stringify(join(import.meta.dir, "../../src/providers/pkcs11/softhsm_backup.ts"))});
    for (let turn = 0; turn < 200; turn += 1) backUpToken(...${JSON.stringify([SOFTHSM, backup, serial])});`;
  const env = { ...process.env };
  const writer = Bun.spawn([process.execPath, "-e", write, file, whole.toString("hex")], { env });
  const copiers = [1, 2, 3].map(() => Bun.spawn([process.execPath, "-e", copying], { env }));
  let ended = false;
  const all = Promise.all(copiers.map(({ exited }) => exited)).finally(() => (ended = true));
  const seen = new Set<string>();
  while (!ended) {
    await Bun.sleep(1);
    const command = restoreCommand(file, backup);
    // undefined only before there is one.
    if (command !== undefined || seen.size > 0) seen.add(`${command} ${readFileSync(copy).length}`);
  }
  expect(await all).toEqual([0, 0, 0]);
  writer.kill();
  await writer.exited;
  expect([...seen]).toEqual([`cp ${copy} ${file} ${whole.length}`]);
  expect(readdirSync(dirname(copy))).toEqual(["token.object"]);
}, 60_000);

test.skipIf(process.getuid?.() !== 0)("what root copies belongs to the owner of the directory", () => {
  mkdirSync(backup);
  chownSync(backup, 12345, 23456);
  backUpToken(SOFTHSM, backup, serial);
  for (const path of [dirname(copy), copy]) expect([statSync(path).uid, statSync(path).gid]).toEqual([12345, 23456]);
});

test("a token that is none of SoftHSM's is refused, with what to do", async () => {
  const refusal = await refusalOf(() => backUpToken(SOFTHSM, backup, "0123456789abcdef"));
  expect([refusal?.code, refusal?.hint]).toEqual(["hsm_token", expect.stringContaining("SOFTHSM_BACKUP_DIR")]);
});
