import { expect, test } from "bun:test";
import { join } from "node:path";
import { type HsmInstall, proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { stop } from "../harness/program.ts";
import { SOFTHSM } from "../harness/token.ts";

/** A program in another language, that knows only docs/format.md, asks the token itself to open what is in the database. */

const READER = join(import.meta.dir, "../independent/token_reader.py");
const PYTHON = process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3";

// biome-ignore lint/suspicious/noExplicitAny: results are compared, not used
async function reader(install: HsmInstall, words: string[]): Promise<any> {
  const target = ["--uri", install.uri, "--db", install.name];
  const env = {
    PATH: process.env["PATH"] ?? "",
    ...install.token.variables,
    // The token itself, not the shim before it.
    CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: SOFTHSM,
  };
  const command = [PYTHON, READER, words[0] as string, ...target, ...words.slice(1)];
  const child = Bun.spawn(command, { env, stdout: "pipe", stderr: "pipe" });
  const [out, said] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if (out.trim() === "") throw new Error(`token_reader.py ${words.join(" ")}: ${said}`);
  return JSON.parse(out);
}

test("it opens every envelope and canary before and after a rotation, and what it writes is rotated too", async () => {
  const install = await seededHsm(160);
  expect(await reader(install, ["canaries"])).toEqual({ "1": "proved", "2": "proved" });
  const before = await reader(install, ["read"]);
  expect(before).toMatchObject({ read: 160, ok: 160, versions: { "1": 160 }, bad: [] });
  expect(await reader(install, ["write", "--version", "1", "--count", "40", "--first", "160"])).toEqual({
    written: 40,
  });
  const whole = await reader(install, ["read"]);
  expect(whole).toMatchObject({ read: 200, ok: 200, versions: { "1": 200 } });
  await proveHsm(install, 1, 200);

  const fleet = [await install.serve("api-1", 2), await install.serve("api-2", 2)];
  const rotated = await install.kek(["rotate", "--to-version=2"], 2);
  expect(rotated.json).toMatchObject({ rewrapped: 200, state: "completed" });
  const after = await reader(install, ["read"]);
  // Not a byte of a nonce or a ciphertext is another.
  expect(after).toEqual({ read: 200, ok: 200, versions: { "2": 200 }, bad: [], payload: whole.payload });
  expect(await reader(install, ["canaries"])).toEqual({ "1": "proved", "2": "proved" });
  await reader(install, ["write", "--version", "2", "--count", "50", "--first", "200"]);
  await stop(...fleet);

  expect((await install.kek(["remove", "--version=1"], 2)).code).toBe(0);
  expect(await reader(install, ["canaries"])).toEqual({ "2": "proved" });
  expect(await reader(install, ["read"])).toMatchObject({ read: 250, ok: 250, versions: { "2": 250 } });
  await proveHsm(install, 2, 250);
});

test("through a token that makes its IVs itself nothing else is stored", async () => {
  const install = await seededHsm(0);
  const own = { CERTAUTOPILOT_ENCRYPTION_PKCS11_USE_GCM_IV_FROM_HSM: "true" };
  install.token.shim.set({ ivMode: 2, ivStrict: 1 });
  const service = await install.service(1, own);
  await service.ask({ seed: 100 });
  await service.leave();
  expect((await install.kek(["rotate", "--to-version=2"], 2, own)).code).toBe(0);
  install.token.shim.set({ ivMode: 1 });
  const other = await install.service(2, own);
  await other.ask({ seed: 100, first: 100 });
  await other.leave();
  expect(await reader(install, ["read"])).toMatchObject({ read: 200, ok: 200, versions: { "2": 200 } });
  const records = await install.db.collection("secrets").find().toArray();
  const ivs = new Set(records.map(({ value }) => value.wrapped_dek.toString("hex").slice(0, 24)));
  expect([ivs.size, ivs.has("0".repeat(24))]).toEqual([200, false]);
  install.token.shim.set({ ivMode: 0, ivStrict: 0 });
  await proveHsm(install, 2, 200);
});

test("a token that puts an IV of its own in the place of the one given, unasked, harms no record", async () => {
  const install = await seededHsm(0);
  for (const ivMode of [1, 2]) {
    install.token.shim.set({ ivMode, ivStrict: 0 });
    const service = await install.service(1);
    await service.ask({ seed: 100, first: ivMode * 1000 });
    await service.leave();
  }
  expect(await reader(install, ["read"])).toMatchObject({ read: 200, ok: 200, bad: [] });
  expect((await install.kek(["rotate", "--to-version=2"], 2)).code).toBe(0);
  expect(await reader(install, ["read"])).toMatchObject({ read: 200, ok: 200, versions: { "2": 200 } });
});
