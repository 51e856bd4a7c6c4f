import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { Provider } from "../../src/providers/provider.ts";
import { refusalOf } from "../harness/codes.ts";
import { CKR } from "../harness/token.ts";
import { canaryBy, tokensHere } from "../harness/tokens_here.ts";

/** The sessions of a token: how many, how they are logged in, and what is done when the token takes them away. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("sessions");

const aad = (index: number) => Buffer.from(`record ${index}`);

/** Rewraps of so many records at once, each checked. @returns how many gave their data key back. */
async function rewraps(provider: Provider, count: number): Promise<number> {
  const done = Array.from({ length: count }, async (_, index) => {
    const dek = randomBytes(32);
    const wrapped = await provider.wrap(dek, aad(index), 1);
    const fresh = await provider.rewrap(wrapped, { version: 1, aad: aad(index) }, { version: 2, aad: aad(index) });
    return dek.equals(await provider.unwrap(fresh, aad(index), 2));
  });
  return (await Promise.all(done)).filter((right) => right).length;
}

describe("sessions", () => {
  test("are one login a process, never used by two at once, and no more than allowed", async () => {
    const provider = await tokens.openWith("sessions", [1, 2]);
    shim.set({ latencyUs: 1000 });
    expect(await rewraps(provider, 200)).toBe(200);
    expect(shim.get("logins")).toBe(1);
    expect(shim.get("overlaps")).toBe(0);
    // A slow token is asked by many at once.
    expect(shim.get("sessionsPeak")).toBeGreaterThan(1);
    expect(shim.get("sessionsPeak")).toBeLessThanOrEqual(4);
  });

  test("are as few as the operator says", async () => {
    const provider = await tokens.openWith("sessions", [1, 2], { sessions: 1 });
    shim.set({ latencyUs: 500 });
    expect(await rewraps(provider, 60)).toBe(60);
    expect(shim.get("sessionsPeak")).toBe(1);
  });

  for (const limit of [1, 2, 3]) {
    test(`are ${limit} where the token tells that it has no more, and a thread beside gets along`, async () => {
      shim.set({ sessionLimit: limit });
      const provider = await tokens.openWith("sessions", [1, 2], { sessions: 8 });
      const proofs = [await canaryBy(provider, 1), await canaryBy(provider, 2)];
      shim.set({ latencyUs: 500 });
      const twin = await tokens.twin(provider);
      for (const version of [1, 2]) await twin.load(version, proofs[version - 1]);
      expect(await rewraps(twin, 100)).toBe(100);
      await twin.close();
      expect(await rewraps(provider, 100)).toBe(100);
      expect(shim.get("sessionsPeak")).toBeLessThanOrEqual(limit);
    });
  }

  test("are shared with a thread also when this one had opened all of them", async () => {
    shim.set({ sessionLimit: 2 });
    const provider = await tokens.openWith("sessions", [1, 2]);
    const proof = await canaryBy(provider, 1);
    shim.set({ latencyUs: 1000 });
    await rewraps(provider, 150);
    expect(shim.get("sessions")).toBe(2);
    const twin = await tokens.twin(provider);
    await twin.load(1, proof);
    expect((await twin.unwrap(proof.wrap, proof.aad, 1)).length).toBe(32);
  });

  test("that another program holds are not waited for by records: those there are do the work", async () => {
    const provider = await tokens.openWith("sessions", [1, 2], { sessions: 8 });
    // The token says nothing of a limit when it is asked, and refuses the third session.
    shim.set({ sessionLimit: 2, latencyUs: 1000 });
    expect(await rewraps(provider, 200)).toBe(200);
    expect(shim.get("sessionsPeak")).toBe(2);
  });

  test("that are none at all end in hsm_unavailable, which says how to have one", async () => {
    shim.set({ sessionLimit: 1 });
    const provider = await tokens.openWith("sessions", [1]);
    const proof = await canaryBy(provider, 1);
    // The one there is goes to a thread.
    const twin = await tokens.twin(provider);
    await twin.load(1, proof);
    for (const call of [() => provider.unwrap(proof.wrap, proof.aad, 1), () => provider.check(1)]) {
      const refusal = await refusalOf(call);
      expect(refusal?.code).toBe("hsm_unavailable");
      expect(refusal?.message).toContain("no session left");
    }
    await twin.close();
    await provider.check(1);
  });

  test("are all given back on close, and the module with them", async () => {
    const provider = await tokens.openWith("sessions", [1, 2]);
    shim.set({ latencyUs: 1000 });
    await rewraps(provider, 100);
    await provider.close();
    expect(shim.get("sessions")).toBe(0);
    expect(shim.get("finalized")).toBe(1);
  });
});

describe("sessions that the token closed behind the back", () => {
  test("are opened again, under 300 operations", async () => {
    const provider = await tokens.openWith("sessions", [1, 2]);
    shim.set({ latencyUs: 500 });
    const all = rewraps(provider, 300);
    for (let drops = 1; drops <= 5; drops += 1) {
      await Bun.sleep(40);
      shim.set({ drops });
    }
    expect(await all).toBe(300);
    shim.set({ drops: 6 });
    expect(await rewraps(provider, 20)).toBe(20);
    expect(shim.get("overlaps")).toBe(0);
    // All sessions of the process go with their login: the next one logs in again, and only that one.
    expect(shim.get("logins")).toBeLessThanOrEqual(1 + 6);
    expect(shim.get("sessions")).toBeLessThanOrEqual(4);
  });

  test("take no loaded version along, and loading continues too", async () => {
    const provider = await tokens.openWith("sessions", [1, 2]);
    const proof = await canaryBy(provider, 1);
    shim.set({ drops: 1 });
    await provider.check(1);
    shim.set({ drops: 2 });
    expect(await provider.available([1, 2, 3])).toEqual([1, 2]);
    shim.set({ drops: 3 });
    expect((await provider.unwrap(proof.wrap, proof.aad, 1)).length).toBe(32);
    shim.set({ drops: 4 });
    await provider.load(2);
    shim.set({ drops: 5 });
    expect((await provider.describe(2))?.label).toBe("certautopilot-kek-v2");
    expect((await provider.probe()).every(({ ok }) => ok)).toBe(true);
  });
});

describe("a call that fails once is made again, wherever it comes", () => {
  const codes = [
    "SESSION_HANDLE_INVALID",
    "DEVICE_ERROR",
    "TOKEN_NOT_PRESENT",
    "GENERAL_ERROR",
    "DEVICE_REMOVED",
    "CRYPTOKI_NOT_INITIALIZED",
  ] as const;
  for (const code of codes) {
    test(`CKR_${code}, at each of 40 calls from a new session on`, async () => {
      const provider = await tokens.openWith("sessions", [1, 2], { sessions: 2 });
      for (let failIn = 1; failIn <= 40; failIn += 1) {
        shim.set({ drops: failIn, failIn, failCode: CKR[code] });
        expect({ failIn, right: await rewraps(provider, 3) }).toEqual({ failIn, right: 3 });
      }
      // Every order was carried out.
      expect(shim.get("failed")).toBe(40);
      expect(shim.get("logins")).toBeLessThanOrEqual(1 + 2 * 40);
    });
  }

  test("also when it is one of those that open the token for the first time", async () => {
    for (let failIn = 1; failIn <= 30; failIn += 3) {
      shim.set({ failIn, failCode: CKR.DEVICE_ERROR });
      const provider = await tokens.openWith("sessions", [1, 2], { sessions: 1 });
      expect({ failIn, right: await rewraps(provider, 2) }).toEqual({ failIn, right: 2 });
      await provider.close();
    }
  });
});
