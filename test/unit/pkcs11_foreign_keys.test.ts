import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { tokensHere } from "../harness/tokens_here.ts";

/** A token that holds many keys of other programs, and is slow to show their attributes. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("shared");

const AAD = Buffer.from("a record");

test("keys of other programs are never listed, and administrative calls hold no decryption up", async () => {
  const provider = await tokens.openWith("shared", [1, 2]);
  for (let key = 0; key < 60; key += 1)
    tokens.tool("shared", "--keygen", "--key-type", "aes:32", "--label", `foreign ${key}`, "--id", `aa${key + 10}`);
  const dek = randomBytes(32);
  const wrapped = await provider.wrap(dek, AAD, 1);
  await provider.unwrap(wrapped, AAD, 1);
  shim.set({ attributeUs: 200_000, listings: 0, attributes: 0 });
  const found = provider.available([1, 2, 3, 4]);
  const checked = Promise.all([1, 2].map((version) => provider.load(version)));
  let slowestMs = 0;
  for (let call = 0; call < 100; call += 1) {
    const began = performance.now();
    expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
    slowestMs = Math.max(slowestMs, performance.now() - began);
  }
  expect(await found).toEqual([1, 2]);
  await checked;
  expect(shim.get("listings")).toBe(0);
  // One read of the attributes of each key that is loaded, in each session that uses it.
  expect(shim.get("attributes")).toBeLessThan(10);
  expect(slowestMs).toBeLessThan(1000);
}, 60_000);
