import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { canaryBy, tokensHere } from "../harness/tokens_here.ts";

/** A token that logs the application out, as an HSM does that was reset: it shows no private key, and every key is still there. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("out");

const AAD = Buffer.from("a record");

test("keys that a token does not show after a logout are not gone: the process logs in again and finds them", async () => {
  const provider = await tokens.openWith("out", [1, 2], { sessions: 1 });
  const wrap = await provider.wrap(randomBytes(32), AAD, 1);
  // Sessions are closed, so that keys are searched again, and the next searches meet a token without a login.
  shim.set({ logouts: 3, drops: shim.get("drops") + 1 });
  expect((await provider.unwrap(wrap, AAD, 1)).length).toBe(32);
  expect(shim.get("logouts")).toBe(0);
});

test("a key that a logout hides is destroyed all the same, and not reported as one that was never there", async () => {
  const provider = await tokens.openWith("out", [1, 2], { sessions: 1 });
  const proof = await canaryBy(provider, 2);
  shim.set({ logouts: 1 });
  const { destroyed } = await provider.destroy(2, proof, { keepCopy: false });
  expect([destroyed.length, shim.get("logouts")]).toEqual([1, 0]);
  expect(await provider.describe(2)).toBeUndefined();
});
