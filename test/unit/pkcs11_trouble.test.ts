import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { Provider } from "../../src/providers/provider.ts";
import { codeOf } from "../harness/codes.ts";
import { CKR } from "../harness/token.ts";
import { canaryBy, INSTALL, tokensHere } from "../harness/tokens_here.ts";

/** A token that fails now and then, errs without saying so, is unavailable, or is another one when it comes back. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("trouble");

const AAD = Buffer.from("a record");
const FROM = { version: 1, aad: AAD };
const TO = { version: 2, aad: AAD };

async function wraps(provider: Provider, count: number): Promise<{ dek: Buffer; wrapped: Uint8Array }[]> {
  const all = Array.from({ length: count }, async () => {
    const dek = randomBytes(32);
    return { dek, wrapped: await provider.wrap(dek, AAD, 1) };
  });
  return await Promise.all(all);
}

async function inMs(work: () => unknown): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

describe("among calls that fail at random", () => {
  test("2,000 rewraps are right, and no record is called bad", async () => {
    const provider = await tokens.openWith("trouble", [1, 2]);
    const made = await wraps(provider, 2000);
    shim.set({ failPpm: 10_000 });
    const fresh = await Promise.all(made.map(({ wrapped }) => provider.rewrap(wrapped, FROM, TO)));
    expect(shim.get("failed")).toBeGreaterThan(50);
    shim.set({ failPpm: 0 });
    const back = await Promise.all(fresh.map((wrap) => provider.unwrap(wrap, AAD, 2)));
    expect(back.filter((dek, index) => made[index]?.dek.equals(dek))).toHaveLength(2000);
    expect(shim.get("overlaps")).toBe(0);
  });

  test("a wrap that was tampered with is called so, and its neighbours are rewrapped", async () => {
    const provider = await tokens.openWith("trouble", [1, 2]);
    const made = await wraps(provider, 300);
    const bad = (index: number) => index % 15 === 7;
    made.forEach(({ wrapped }, index) => {
      if (bad(index)) wrapped[30] = (wrapped[30] ?? 0) ^ 1;
    });
    shim.set({ failPpm: 10_000 });
    const outcomes = await Promise.all(made.map(({ wrapped }) => codeOf(() => provider.rewrap(wrapped, FROM, TO))));
    expect(shim.get("failed")).toBeGreaterThan(5);
    expect(outcomes).toEqual(made.map((_, index) => (bad(index) ? "decryption_failed" : undefined)));
  });

  test("versions are loaded, verified, listed and made", async () => {
    const provider = await tokens.openWith("trouble", [1]);
    const proof = await canaryBy(provider, 1);
    shim.set({ failPpm: 5_000 });
    for (let round = 0; round < 20; round += 1) {
      await provider.load(1, proof);
      await provider.check(1);
      expect(await provider.available([1, 2])).toContain(1);
    }
    const made = await provider.make(7, INSTALL);
    shim.set({ failPpm: 0 });
    expect(await provider.describe(7)).toEqual(made);
    await provider.load(7);
  });
});

describe("a token that gives other bytes and says CKR_OK", () => {
  test("never gets them out of wrap or rewrap", async () => {
    const provider = await tokens.openWith("trouble", [1, 2], { sessions: 1 });
    for (let round = 0; round < 10; round += 1) {
      shim.set({ corruptIn: 1 });
      const dek = randomBytes(32);
      const wrapped = await provider.wrap(dek, AAD, 1);
      expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
      expect(shim.get("corruptIn")).toBe(0);
      shim.set({ corruptIn: 1 });
      const fresh = await provider.rewrap(wrapped, FROM, TO);
      expect(shim.get("corruptIn")).toBe(0);
      expect(dek.equals(await provider.unwrap(fresh, AAD, 2))).toBe(true);
    }
  });

  test("nor among many operations", async () => {
    const provider = await tokens.openWith("trouble", [1, 2]);
    const made = await wraps(provider, 60);
    shim.set({ corruptIn: 30 });
    const fresh = await Promise.all(made.map(({ wrapped }) => provider.rewrap(wrapped, FROM, TO)));
    expect(shim.get("corruptIn")).toBe(0);
    const back = await Promise.all(fresh.map((wrap) => provider.unwrap(wrap, AAD, 2)));
    expect(back.every((dek, index) => made[index]?.dek.equals(dek))).toBe(true);
  });
});

describe("a token that is unavailable", () => {
  for (const code of ["TOKEN_NOT_PRESENT", "GENERAL_ERROR", "CRYPTOKI_NOT_INITIALIZED"] as const) {
    test(`with CKR_${code}: hsm_unavailable in time, then at once, and it continues when the token is back`, async () => {
      const provider = await tokens.openWith("trouble", [1, 2]);
      const made = await wraps(provider, 20);
      shim.set({ away: CKR[code] });
      const outcomes = await Promise.all(made.map(({ wrapped }) => codeOf(() => provider.rewrap(wrapped, FROM, TO))));
      expect(new Set(outcomes)).toEqual(new Set(["hsm_unavailable"]));
      for (const call of [
        () => provider.wrap(randomBytes(32), AAD, 1),
        () => provider.check(1),
        () => provider.load(2),
      ]) {
        let seen: string | undefined;
        expect(
          await inMs(async () => {
            seen = await codeOf(call);
          }),
        ).toBeLessThan(1500);
        expect(seen).toBe("hsm_unavailable");
      }
      shim.set({ away: 0 });
      const again = async () => await Promise.all(made.map(({ wrapped }) => provider.unwrap(wrapped, AAD, 1)));
      expect((await again()).every((dek, index) => made[index]?.dek.equals(dek))).toBe(true);
      await provider.load(2);
      expect((await provider.rewrap((made[0] as { wrapped: Uint8Array }).wrapped, FROM, TO)).length).toBe(60);
    });
  }

  test("and comes back within patience: nobody notices", async () => {
    const provider = await tokens.openWith("trouble", [1, 2]);
    const made = await wraps(provider, 50);
    shim.set({ away: CKR.TOKEN_NOT_PRESENT });
    const rewrapping = Promise.all(made.map(({ wrapped }) => codeOf(() => provider.rewrap(wrapped, FROM, TO))));
    await Bun.sleep(1500);
    shim.set({ away: 0 });
    expect(await rewrapping).toEqual(made.map(() => undefined));
  });

  test("and not yet there when it is first asked for: it is looked for again, for half a second", async () => {
    tokens.plug("late");
    tokens.addToken("late");
    shim.set({ away: CKR.TOKEN_NOT_PRESENT });
    expect(await codeOf(() => tokens.open("late"))).toBe("hsm_token");
    const calls = shim.get("calls");
    const opening = tokens.openWith("late", [1]);
    while (shim.get("calls") < calls + 2) await Bun.sleep(2);
    shim.set({ away: 0 });
    expect((await (await opening).wrap(randomBytes(32), AAD, 1)).length).toBe(60);
    tokens.plug("first");
  });

  test("is unavailable for a thread that has not met it, too", async () => {
    shim.set({ sessionLimit: 1 });
    const provider = await tokens.openWith("trouble", [1]);
    // Its one session is lent.
    await provider.recipes();
    shim.set({ away: CKR.TOKEN_NOT_PRESENT });
    expect(await codeOf(() => provider.check(1))).toBe("hsm_unavailable");
  });
});

test("a token in the other's place, with its label and a key of the same label, is given nothing to wrap", async () => {
  tokens.plug("second");
  tokens.addToken("trouble");
  // A thread that an earlier test left in a call keeps the module, and its set of tokens, until it is done.
  while (!tokens.tool("trouble", "--list-objects", "--type", "secrkey").includes("certautopilot-kek-v2")) {
    const other = await tokens.openWith("trouble", [1, 2]);
    await other.close();
    await Bun.sleep(100);
  }
  tokens.plug("first");

  const provider = await tokens.openWith("trouble", [1, 2]);
  const [{ dek, wrapped }] = (await wraps(provider, 1)) as [{ dek: Buffer; wrapped: Uint8Array }];
  const proof = await canaryBy(provider, 1);
  /** Pulls one out, puts the other in: the module shows it once it is initialized again. */
  const swap = async (set: string) => {
    tokens.plug(set);
    const before = shim.get("finalized");
    shim.set({ away: CKR.TOKEN_NOT_PRESENT });
    const waiting = provider.describe(1);
    while (shim.get("finalized") === before) await Bun.sleep(20);
    shim.set({ away: 0 });
    expect(await waiting).toBeDefined();
  };
  await swap("second");
  expect(await codeOf(() => provider.check(1))).toBe("key_mismatch");
  expect(await codeOf(() => provider.wrap(dek, AAD, 1))).toBe("key_mismatch");
  expect(await codeOf(() => provider.wrap(dek, AAD, 2))).toBe("key_mismatch");
  expect(await codeOf(() => provider.rewrap(wrapped, FROM, TO))).toBe("key_mismatch");
  expect(await codeOf(() => provider.load(1, proof))).toBe("key_mismatch");
  expect(await codeOf(() => provider.wrap(dek, AAD, 1))).toBe("version_not_loaded");
  await Bun.sleep(2000);
  await swap("first");
  await provider.load(1, proof);
  expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
  expect((await provider.rewrap(wrapped, FROM, TO)).length).toBe(60);
});
