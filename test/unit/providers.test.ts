import { beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { Pkcs11Config, ProviderName } from "../../src/config/config.ts";
import { keyCanaryOf, makeCanary } from "../../src/providers/canary.ts";
import { EnvProvider } from "../../src/providers/env.ts";
import type { Provider } from "../../src/providers/provider.ts";
import { makeProvider } from "../../src/providers/registry.ts";
import { codeOf, refusalOf } from "../harness/codes.ts";
import { KRYOPTIC, kryopticHere } from "../harness/kryoptic_here.ts";
import { canaryBy, INSTALL, tokensHere } from "../harness/tokens_here.ts";

const KEYS: Record<number, string> = { 1: randomBytes(32).toString("hex"), 2: randomBytes(32).toString("hex") };
const [AAD, OTHER] = [Buffer.from("one place"), Buffer.from("another place")];
const tokens = tokensHere();
const makeKryopticToken = kryopticHere();

beforeAll(async () => {
  tokens.addToken("contract");
  const made = async (module?: Pkcs11Config) => {
    const token = await tokens.open("contract", module);
    for (const version of [1, 2]) await token.make(version, INSTALL);
    await token.close();
  };
  await made();
  if (KRYOPTIC === undefined) return;
  makeKryopticToken(KRYOPTIC, "contract");
  await made({ modulePath: KRYOPTIC });
});

function overEnv(): EnvProvider {
  const keks = { 1: { setting: "V1", hex: KEYS[1] as string }, 2: { setting: "V2", hex: KEYS[2] as string } };
  return new EnvProvider({ keks, secretsFile: undefined });
}

/** One suite over every provider: each entry makes an instance that could load versions 1 and 2. */
const PROVIDERS: [what: string, name: ProviderName, make: () => Provider | Promise<Provider>][] = [
  ["env", "env", overEnv],
  ["pkcs11, SoftHSM", "pkcs11", () => tokens.open("contract")],
];
if (KRYOPTIC !== undefined)
  PROVIDERS.push(["pkcs11, Kryoptic", "pkcs11", () => tokens.open("contract", { modulePath: KRYOPTIC as string })]);

for (const [what, name, make] of PROVIDERS) {
  describe(`the contract of a provider: ${what}`, () => {
    const loaded = async () => {
      const provider = await make();
      for (const version of [1, 2]) await provider.load(version);
      return provider;
    };

    test("wraps and unwraps under a loaded version only", async () => {
      const provider = await make();
      expect(provider.name).toBe(name);
      expect((await provider.available([1, 2, 3])).sort()).toEqual([1, 2]);
      expect(await codeOf(() => provider.wrap(Buffer.alloc(32), AAD, 1))).toBe("version_not_loaded");
      await provider.load(1);
      const dek = randomBytes(32);
      const wrapped = await provider.wrap(dek, AAD, 1);
      expect(wrapped.length).toBe(60);
      expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
      expect(Buffer.from(await provider.wrap(dek, AAD, 1)).equals(Buffer.from(wrapped))).toBe(false);
      expect(await codeOf(() => provider.unwrap(wrapped, AAD, 2))).toBe("version_not_loaded");
      await provider.close();
    });

    test("rewraps: the same data key, under the new version and place only", async () => {
      const provider = await loaded();
      const dek = randomBytes(32);
      const wrapped = await provider.wrap(dek, AAD, 1);
      const fresh = await provider.rewrap(wrapped, { version: 1, aad: AAD }, { version: 2, aad: OTHER });
      expect(dek.equals(await provider.unwrap(fresh, OTHER, 2))).toBe(true);
      expect(await codeOf(() => provider.unwrap(fresh, AAD, 2))).toBe("decryption_failed");
      expect(await codeOf(() => provider.unwrap(fresh, OTHER, 1))).toBe("decryption_failed");
      expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
      await provider.release(2);
      const again = () => provider.rewrap(wrapped, { version: 1, aad: AAD }, { version: 2, aad: OTHER });
      expect(await codeOf(again)).toBe("version_not_loaded");
      await provider.close();
    });

    test("refuses other bytes, other AAD, another version, another length, and continues", async () => {
      const provider = await loaded();
      const wrapped = Buffer.from(await provider.wrap(randomBytes(32), AAD, 1));
      const flipped = Array.from({ length: 9 }, (_, index) => {
        const changed = Buffer.from(wrapped);
        changed[index * 7] = (changed[index * 7] ?? 0) ^ 0x80;
        return changed;
      });
      const short = [wrapped.subarray(0, 59), wrapped.subarray(0, 28), wrapped.subarray(0, 0)];
      for (const changed of [...flipped, ...short, Buffer.concat([wrapped, Buffer.alloc(1)])]) {
        expect(await codeOf(() => provider.unwrap(changed, AAD, 1))).toBe("decryption_failed");
        const rewrap = () => provider.rewrap(changed, { version: 1, aad: AAD }, { version: 2, aad: AAD });
        expect(await codeOf(rewrap)).toBe("decryption_failed");
      }
      expect(await codeOf(() => provider.unwrap(wrapped, OTHER, 1))).toBe("decryption_failed");
      expect(await codeOf(() => provider.unwrap(wrapped, AAD, 2))).toBe("decryption_failed");
      expect((await provider.unwrap(wrapped, AAD, 1)).length).toBe(32);
      await provider.close();
    });

    test("forgets, loads again, and names a key that is not there", async () => {
      const provider = await loaded();
      const wrapped = await provider.wrap(Buffer.alloc(32, 7), AAD, 1);
      await provider.release(1);
      await provider.release(1);
      expect(await codeOf(() => provider.unwrap(wrapped, AAD, 1))).toBe("version_not_loaded");
      expect(await codeOf(() => provider.check(1))).toBe("version_not_loaded");
      await provider.load(1);
      await provider.check(1);
      expect((await provider.unwrap(wrapped, AAD, 1))[0]).toBe(7);
      const missing = await refusalOf(() => provider.load(9));
      expect(missing?.code).toBe("key_missing");
      expect(`${missing?.message} ${missing?.hint}`).toContain("9");
      expect(await codeOf(() => provider.wrap(Buffer.alloc(32), AAD, 9))).toBe("version_not_loaded");
      await provider.close();
    });

    test("loads a version by its proof, and by no other", async () => {
      const provider = await loaded();
      const canary = await makeCanary(provider, INSTALL, 1);
      const right = keyCanaryOf(canary, INSTALL, provider.name, 1);
      await provider.load(1, right);
      await provider.check(1);
      const strange = [
        keyCanaryOf(canary, "another install", provider.name, 1),
        keyCanaryOf(await makeCanary(provider, INSTALL, 2), INSTALL, provider.name, 1),
        { ...right, digest: Buffer.alloc(32) },
        { ...right, wrap: right.wrap.subarray(1) },
      ];
      for (const proof of strange) {
        expect(await codeOf(() => provider.load(1, proof))).toBe("key_mismatch");
        expect(await codeOf(() => provider.wrap(Buffer.alloc(32), AAD, 1))).toBe("version_not_loaded");
      }
      await provider.load(1, right);
      expect((await provider.wrap(Buffer.alloc(32), AAD, 1)).length).toBe(60);
      await provider.close();
    });

    test("keeps each of many operations in flight apart", async () => {
      const provider = await loaded();
      const all = Array.from({ length: 500 }, async (_, index) => {
        const [dek, aad] = [randomBytes(32), Buffer.from(`record ${index}`)];
        const wrapped = await provider.wrap(dek, aad, 1);
        const fresh = await provider.rewrap(wrapped, { version: 1, aad }, { version: 2, aad });
        return dek.equals(await provider.unwrap(fresh, aad, 2));
      });
      expect((await Promise.all(all)).filter((right) => right)).toHaveLength(500);
      await provider.close();
    });

    test("is over when it is closed, for what comes and for what is under way", async () => {
      const provider = await loaded();
      const wrapped = await provider.wrap(Buffer.alloc(32), AAD, 1);
      const underWay = Array.from({ length: 50 }, () => codeOf(() => provider.unwrap(wrapped, AAD, 1)));
      await provider.close();
      for (const code of await Promise.all(underWay)) expect([undefined, "closed"]).toContain(code as "closed");
      for (const late of [() => provider.unwrap(wrapped, AAD, 1), () => provider.wrap(Buffer.alloc(32), AAD, 1)])
        expect(["closed", "version_not_loaded"]).toContain((await codeOf(late)) as string);
      await provider.close();
    });

    test("gives recipes, plain data, for instances of its own kind beside it", async () => {
      const provider = await loaded();
      const proof = await canaryBy(provider, 1);
      const recipes = structuredClone(await provider.recipes(2));
      expect([1, 2]).toContain(recipes.length);
      for (const recipe of recipes) {
        const twin = makeProvider(recipe);
        await twin.load(1, proof);
        expect((await twin.unwrap(proof.wrap, proof.aad, 1)).length).toBe(32);
        await twin.close();
      }
      expect((await provider.unwrap(proof.wrap, proof.aad, 1)).length).toBe(32);
      await provider.close();
    });

    test("passes its probe, and tells an operator where keys come from", async () => {
      const provider = await loaded();
      expect((await provider.probe()).filter(({ ok }) => !ok)).toEqual([]);
      expect(provider.howToGive(12, false)).toMatch(/(V|version=)12\b/);
      // A key that exists is never made a second time.
      expect(provider.howToGive(12, true)).toMatch(/never/);
      expect(provider.howToGive(12, true)).not.toMatch(/openssl|pkcs11-init/);
      expect(provider.staging).toBe(name === "env" ? "by_holders" : "by_init");
      await provider.close();
    });
  });
}

test("a key in a token is described by label and id, bytes in memory by nothing; neither by a secret", async () => {
  expect(overEnv().describe()).toBeUndefined();
  const token = await tokens.open("contract");
  const [first, second] = [await token.describe(1), await token.describe(2)];
  expect(first).toEqual({ label: "certautopilot-kek-v1", id: expect.any(String), mechanism: "CKM_AES_GCM" });
  expect(first?.id).toMatch(/^[0-9a-f]{32}$/);
  expect(second?.id).not.toBe(first?.id as string);
  expect(await token.describe(9)).toBeUndefined();
});
