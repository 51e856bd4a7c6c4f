import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { tokensHere } from "../harness/tokens_here.ts";

/** How many operations of concurrent clients a token is kept busy with. */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("concurrent");

const AAD = Buffer.from("a record");

test("a token that goes from 1 to 50 ms a call is asked by all sessions within a second", async () => {
  shim.set({ latencyUs: 1000 });
  const provider = await tokens.openWith("concurrent", [1], { sessions: 16 });
  const wrapped = await provider.wrap(randomBytes(32), AAD, 1);
  let [done, ended] = [0, false];
  const client = async () => {
    for (; !ended; done += 1) await provider.unwrap(wrapped, AAD, 1);
  };
  const clients = Promise.all(Array.from({ length: 64 }, client));
  await reached(() => done >= 2000);
  shim.set({ latencyUs: 50_000 });
  // What was given out before is done in the first second.
  const slow = performance.now();
  await reached(() => performance.now() - slow > 1000);
  const [before, began] = [done, performance.now()];
  await reached(() => performance.now() - began > 2000);
  const perSecond = ((done - before) * 1000) / (performance.now() - began);
  ended = true;
  await clients;
  // 15 sessions of 50 ms make 300 a second; when fewer were asked, it was a quarter of that. Busy processors take some.
  expect(perSecond).toBeGreaterThan(130);
});

test("an operation that is larger than the shared memory of a session is done, beside small ones", async () => {
  const provider = await tokens.openWith("concurrent", [1], { sessions: 4 });
  const cases = [10, 20_000, 40_000, 200_000, 16, 31_000].map((bytes) => ({
    dek: randomBytes(32),
    aad: randomBytes(bytes),
  }));
  const wraps = await Promise.all(cases.map(({ dek, aad }) => provider.wrap(dek, aad, 1)));
  const opened = await Promise.all(cases.map(({ aad }, at) => provider.unwrap(wraps[at] as Uint8Array, aad, 1)));
  opened.forEach((dek, at) => {
    expect(Buffer.from(dek).equals(cases[at]?.dek as Buffer)).toBe(true);
  });
});

test("sessions that are idle answer the next operation, time after time", async () => {
  const provider = await tokens.openWith("concurrent", [1], { sessions: 4 });
  const wrapped = await provider.wrap(randomBytes(32), AAD, 1);
  // Around the moment at which a session's thread stops waiting for its next request.
  for (let pauseMs = 15; pauseMs < 27; pauseMs += 0.25) {
    await Bun.sleep(pauseMs);
    expect((await provider.unwrap(wrapped, AAD, 1)).length).toBe(32);
  }
});

async function reached(so: () => boolean): Promise<void> {
  while (!so()) await Bun.sleep(5);
}
