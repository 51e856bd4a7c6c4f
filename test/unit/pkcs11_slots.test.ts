import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { codeOf, refusalOf } from "../harness/codes.ts";
import { CKR } from "../harness/token.ts";
import { tokensHere } from "../harness/tokens_here.ts";

/** Slots that cannot be read, beside the one with the token. SoftHSM lists a slot with a token that is not initialised. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("slots");

const AAD = Buffer.from("a record");
const BROKEN = ["DEVICE_ERROR", "GENERAL_ERROR", "FUNCTION_FAILED"] as const;

for (const code of BROKEN)
  test(`a slot that answers C_GetTokenInfo with ${code} is skipped when another has the label`, async () => {
    shim.set({ freeSlot: CKR[code] });
    const provider = await tokens.openWith("slots", [1]);
    expect((await provider.wrap(randomBytes(32), AAD, 1)).length).toBe(60);
  });

test("a slot that cannot be read is named when no other has the label", async () => {
  shim.set({ freeSlot: CKR.DEVICE_ERROR });
  const refusal = await refusalOf(() => tokens.open("no such token"));
  expect(refusal?.code).toBe("hsm_unavailable");
  expect(refusal?.message).toMatch(/no token is labelled "no such token".*slot \d+ .*C_GetTokenInfo: CKR_DEVICE_ERROR/);
});

test("a process that has found its slot opens further sessions without reading the slots again", async () => {
  const provider = await tokens.openWith("slots", [1], { sessions: 4 });
  shim.set({ infoCode: CKR.DEVICE_ERROR, latencyUs: 1000 });
  const wraps = await Promise.all(
    Array.from({ length: 400 }, () => codeOf(() => provider.wrap(randomBytes(32), AAD, 1))),
  );
  expect(wraps.filter((code) => code !== undefined)).toEqual([]);
  expect(shim.get("sessionsPeak")).toBeGreaterThan(1);
});
