import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { Provider } from "../../src/providers/provider.ts";
import { refusalOf } from "../harness/codes.ts";
import { CKR } from "../harness/token.ts";
import { tokensHere } from "../harness/tokens_here.ts";

/** A token that opens fewer sessions than it declares, or than are asked for, and says so with any return code. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("capped");

const AAD = Buffer.from("a record");

interface Sealed {
  dek: Buffer;
  wrapped: Uint8Array;
}

async function sealed(provider: Provider): Promise<Sealed> {
  const dek = randomBytes(32);
  return { dek, wrapped: await provider.wrap(dek, AAD, 1) };
}

/** Unwraps by many clients for a while. @returns how many succeeded, and the messages of those that did not. */
async function clients(
  provider: Provider,
  count: number,
  ms: number,
  { dek, wrapped }: Sealed,
): Promise<{ right: number; failed: string[] }> {
  const until = performance.now() + ms;
  const failed: string[] = [];
  let right = 0;
  const client = async () => {
    while (performance.now() < until) {
      const refusal = await refusalOf(async () => {
        if (dek.equals(await provider.unwrap(wrapped, AAD, 1))) right += 1;
      });
      if (refusal !== undefined) failed.push(refusal.message);
    }
  };
  await Promise.all(Array.from({ length: count }, client));
  return { right, failed };
}

describe("a token that opens four sessions and declares no limit", () => {
  for (const code of ["ARGUMENTS_BAD", "DEVICE_MEMORY", "FUNCTION_FAILED", "GENERAL_ERROR", "VENDOR"] as const) {
    test(`and answers C_OpenSession with ${code}: 64 clients are served by four sessions, without an error`, async () => {
      shim.set({ cap: 4, capCode: CKR[code] });
      const provider = await tokens.openWith("capped", [1], { sessions: 16 });
      shim.set({ latencyUs: 2000, finalized: 0, logins: 0 });
      const { right, failed } = await clients(provider, 64, 4000, await sealed(provider));
      expect(failed.slice(0, 3)).toEqual([]);
      // Three sessions at work make at most 6,000 calls in this time; one makes 2,000.
      expect(right).toBeGreaterThan(1000);
      expect(shim.get("sessionsPeak")).toBe(4);
      expect([shim.get("finalized"), shim.get("logins")]).toEqual([0, 0]);
    });
  }

  test("opens more of them once the token does", async () => {
    shim.set({ cap: 2, capCode: CKR.ARGUMENTS_BAD });
    const provider = await tokens.openWith("capped", [1], { sessions: 8 });
    shim.set({ latencyUs: 2000 });
    await clients(provider, 32, 1500, await sealed(provider));
    expect(shim.get("sessionsPeak")).toBe(2);
    shim.set({ cap: 0 });
    const { failed } = await clients(provider, 32, 6000, await sealed(provider));
    expect(failed).toEqual([]);
    expect(shim.get("sessionsPeak")).toBeGreaterThan(4);
  });

  test("and opens a single one: that one does the work and the administrative calls", async () => {
    shim.set({ cap: 1, capCode: CKR.ARGUMENTS_BAD });
    const provider = await tokens.openWith("capped", [1, 2], { sessions: 8 });
    shim.set({ latencyUs: 500 });
    const { right, failed } = await clients(provider, 16, 1000, await sealed(provider));
    expect([right > 100, failed]).toEqual([true, []]);
    await provider.check(1);
    expect(shim.get("sessionsPeak")).toBe(1);
  });
});

test("a token that answers nothing is initialised again at most once per backoff interval", async () => {
  const provider = await tokens.openWith("capped", [1], { sessions: 8 });
  shim.set({ latencyUs: 1000 });
  const made = await sealed(provider);
  await clients(provider, 16, 500, made);
  shim.set({ faultPpm: 1_000_000, faultCode: CKR.DEVICE_ERROR, finalized: 0 });
  const { failed } = await clients(provider, 16, 9000, made);
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.find((message) => !message.includes("CKR_DEVICE_ERROR"))).toBeUndefined();
  // After 0, 2, 6 and 14 seconds at the earliest.
  expect(shim.get("finalized")).toBeLessThanOrEqual(3);
  shim.set({ faultPpm: 0 });
  const began = performance.now();
  while ((await refusalOf(() => provider.check(1))) !== undefined) expect(performance.now() - began).toBeLessThan(5000);
  expect((await clients(provider, 16, 1000, made)).failed).toEqual([]);
}, 60_000);
