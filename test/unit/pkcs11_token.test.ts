import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildRegistry, openToken } from "../../src/providers/registry.ts";
import { codeOf, refusalOf } from "../harness/codes.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { CKR, PIN } from "../harness/token.ts";
import { canaryBy, tokensHere } from "../harness/tokens_here.ts";

/** Whether a token is the right one, lets this program in, and can do what is needed: asked before anything is written. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("token");
const directory = scratchDirectory();

const AAD = Buffer.from("a record");
const WRONG = "a-wrong-pin-2718";
const FINAL_TRY = 0x20000;
const LOCKED = 0x40000;

describe("a PIN", () => {
  test("that is wrong is tried once, by however many operations and threads, and never shown", async () => {
    const good = await tokens.openWith("token", [1]);
    const proof = await canaryBy(good, 1);
    await good.close();
    shim.clear();
    const config = tokens.config("token", { pin: WRONG });
    const registries = Array.from({ length: 4 }, () => buildRegistry(config, undefined, { probe: false }));
    const providers = await Promise.all(registries);
    const calls = providers.flatMap((provider) => [
      () => provider.available([1]),
      () => provider.load(1, proof),
      () => provider.unwrap(proof.wrap, proof.aad, 1),
      () => provider.wrap(randomBytes(32), AAD, 1),
      () => provider.probe(),
    ]);
    const refusals = await Promise.all(calls.map(refusalOf));
    expect(new Set(refusals.map((refusal) => refusal?.code))).toEqual(new Set(["hsm_pin"]));
    expect(shim.get("logins")).toBe(1);
    shim.set({ drops: 1 });
    expect(await codeOf(() => providers[0]?.available([1]))).toBe("hsm_pin");
    expect(shim.get("logins")).toBe(1);
    for (const refusal of refusals) expect(`${refusal?.message} ${refusal?.hint}`).not.toContain(WRONG);
    expect(refusals[0]?.message).toMatch(/token "token": .*CKR_PIN_INCORRECT/);
    for (const provider of providers) await provider.close();
  });

  for (const [name, code] of [
    ["locked", CKR.PIN_LOCKED],
    ["expired", 0xa3],
  ] as const) {
    test(`that is ${name} is tried once by a process, however often it opens the token`, async () => {
      tokens.plug("with PINs of no use");
      tokens.addToken(name);
      shim.set({ loginCode: code });
      for (let time = 0; time < 3; time += 1) expect(await codeOf(() => tokens.open(name))).toBe("hsm_pin");
      expect(shim.get("logins")).toBe(1);
    });
  }

  test("that is answered without a word about it is tried once more and no further, and not called wrong", async () => {
    tokens.plug("failing logins");
    tokens.addToken("silent");
    shim.set({ loginCode: 0x6 });
    const refusal = await refusalOf(() => tokens.open("silent"));
    expect([refusal?.code, refusal?.message]).toEqual([
      "hsm_pin",
      'token "silent": the login failed, and may have counted as a wrong PIN (C_Login: CKR_FUNCTION_FAILED)',
    ]);
    const again = await refusalOf(() => tokens.open("silent"));
    expect([again?.code, again?.message]).toEqual([
      "hsm_pin",
      'token "silent": the login failed before, and may have counted as a wrong PIN (C_Login: CKR_FUNCTION_FAILED)',
    ]);
    expect(shim.get("logins")).toBe(2);
  });

  test("that is wrong does not stand in the way of the right one", async () => {
    for (let time = 0; time < 3; time += 1)
      expect(await codeOf(() => tokens.open("token", { pin: "another-wrong-pin" }))).toBe("hsm_pin");
    expect(shim.get("logins")).toBe(1);
    await tokens.open("token");
    expect(shim.get("logins")).toBe(2);
  });

  for (const [name, tokenFlags, words] of [
    ["one more wrong one would lock", FINAL_TRY, /CKF_USER_PIN_FINAL_TRY/],
    ["is locked already", LOCKED, /locked/],
  ] as const) {
    test(`that ${name} is not tried at all`, async () => {
      shim.set({ tokenFlags });
      const refusal = await refusalOf(() => tokens.open("token"));
      expect(refusal?.code).toBe("hsm_pin");
      expect(refusal?.message).toMatch(words);
      expect(shim.get("logins")).toBe(0);
      // Neither does a running process, when it has to log in again.
      shim.set({ tokenFlags: 0 });
      const provider = await tokens.openWith("token", [1]);
      shim.set({ tokenFlags, drops: 1 });
      expect(await codeOf(() => provider.check(1))).toBe("hsm_pin");
      expect(shim.get("logins")).toBe(1);
    });
  }

  test("that is nowhere is asked for once, of a token that is named; where nobody can be asked, the settings are", async () => {
    const config = tokens.config("token", { pin: undefined });
    const asked: string[] = [];
    const provider = await openToken(config, async (label) => {
      asked.push(label);
      return PIN;
    });
    await provider.available([1]);
    await provider.close();
    expect(asked).toEqual(["token"]);
    const refusal = await refusalOf(() => openToken(config, undefined));
    expect(refusal?.code).toBe("hsm_pin");
    expect(refusal?.hint).toContain("CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE");
  });

  test("is not asked for, nor the token opened, where no key is used", async () => {
    const config = tokens.config("token", { pin: undefined });
    const ask = async () => {
      throw new Error("asked");
    };
    const provider = await buildRegistry(config, undefined, { askPin: ask, probe: false });
    await provider.close();
    expect(shim.get("calls")).toBe(0);
  });
});

describe("IVs", () => {
  for (const ivMode of [1, 2]) {
    test(`that the token insists on making (${ivMode === 1 ? "at C_Encrypt" : "at C_EncryptInit"}) are stored`, async () => {
      shim.set({ ivMode, ivStrict: 1 });
      const provider = await tokens.openWith("token", [1, 2], { ownIvs: true });
      const dek = randomBytes(32);
      const made = await Promise.all(Array.from({ length: 20 }, () => provider.wrap(dek, AAD, 1)));
      const ivs = made.map((wrapped) => Buffer.from(wrapped.subarray(0, 12)).toString("hex"));
      expect(new Set(ivs).size).toBe(20);
      expect(ivs).not.toContain("00".repeat(12));
      for (const wrapped of made) {
        const fresh = await provider.rewrap(wrapped, { version: 1, aad: AAD }, { version: 2, aad: AAD });
        expect(dek.equals(await provider.unwrap(fresh, AAD, 2))).toBe(true);
      }
      const row = (await provider.probe()).find(({ what }) => what === "IVs");
      expect(row).toMatchObject({ ok: true, found: expect.stringContaining("made by the HSM") });
    });

    test(`that the token insists on making (mode ${ivMode}) need a setting, which the refusal names`, async () => {
      shim.set({ ivMode, ivStrict: 1 });
      const refusal = await refusalOf(() => tokens.open("token"));
      expect(refusal?.code).toBe("hsm_unfit");
      expect(refusal?.hint).toContain("use_gcm_iv_from_hsm");
      expect(refusal?.message).toContain("CKR_MECHANISM_PARAM_INVALID");
    });
  }

  test("are never the zeros that were left for the token to fill", async () => {
    const refusal = await refusalOf(() => tokens.open("token", { ownIvs: true }));
    expect(refusal?.code).toBe("hsm_unfit");
    expect(refusal?.hint).toContain("use_gcm_iv_from_hsm");
    // And when it stops making them later: nothing is wrapped.
    shim.set({ ivMode: 1 });
    const provider = await tokens.openWith("token", [1], { ownIvs: true });
    shim.set({ ivMode: 0 });
    expect(await codeOf(() => provider.wrap(randomBytes(32), AAD, 1))).toBe("hsm_unfit");
  });
});

test("a token without CKM_AES_GCM is refused by that name, and nothing is made in it", async () => {
  shim.set({ noGcm: 1 });
  const refusal = await refusalOf(() => tokens.open("token"));
  expect(refusal?.code).toBe("hsm_unfit");
  expect(refusal?.message).toMatch(/token "token" cannot hold KEKs: .*CKM_AES_GCM/);
  expect(shim.get("generated")).toBe(0);
});

test("probing leaves nothing in the token", async () => {
  const before = tokens.tool("token", "--list-objects");
  await tokens.open("token");
  expect(shim.get("generated")).toBe(1);
  expect(shim.get("destroyed")).toBe(1);
  expect(tokens.tool("token", "--list-objects")).toBe(before);
});

describe("a label", () => {
  test("that no token has is refused with the labels there are", async () => {
    const refusal = await refusalOf(() => tokens.open("tokn"));
    expect(refusal?.code).toBe("hsm_token");
    expect(refusal?.message).toMatch(
      /no token is labelled "tokn"; the module shows "token" \(SoftHSM v2, serial \w+\)$/,
    );
    expect(refusal?.hint).toContain("CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL");
    expect(shim.get("logins")).toBe(0);
  });

  test("that two tokens have is refused with both serials", async () => {
    tokens.plug("twins");
    for (const label of ["twin", "twin", "other"]) tokens.addToken(label);
    const refusal = await refusalOf(() => tokens.open("twin"));
    expect(refusal?.code).toBe("hsm_token");
    expect(refusal?.message).toMatch(/2 tokens are labelled "twin": .*serial (\w+)\), .*serial (?!\1)\w+\)$/);
    expect(refusal?.message).not.toContain("other");
    expect(shim.get("logins")).toBe(0);
  });

  test("is compared as a whole", async () => {
    tokens.plug("prefixes");
    for (const label of ["hsm", "hsm two"]) tokens.addToken(label);
    const provider = await tokens.openWith("hsm", [1]);
    expect((await provider.probe())[0]?.found).toMatch(/^"hsm",/);
    expect(await codeOf(() => tokens.open("hs"))).toBe("hsm_token");
  });

  test("of a module that shows no token at all", async () => {
    tokens.plug("none");
    const refusal = await refusalOf(() => tokens.open("never met"));
    expect(refusal?.code).toBe("hsm_token");
    expect(refusal?.message).toContain("no token at all");
  });
});

describe("a module", () => {
  const text = join(directory, "module.so");
  writeFileSync(text, "not a library");
  for (const [what, modulePath] of [
    ["that is not there", join(directory, "nowhere.so")],
    ["that is no library", text],
    ["that is a library, but not of PKCS#11", "/lib/x86_64-linux-gnu/libm.so.6"],
  ] as const) {
    test(`${what} is refused by its path`, async () => {
      const refusal = await refusalOf(() => tokens.open("token", { modulePath }));
      expect(refusal?.code).toBe("hsm_module");
      expect(refusal?.message).toContain(modulePath);
      expect(refusal?.hint).toContain("CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH");
    });
  }
});
