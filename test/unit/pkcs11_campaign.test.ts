import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { Provider } from "../../src/providers/provider.ts";
import { refusalOf } from "../harness/codes.ts";
import { problem, random, WELL } from "../harness/token_trouble.ts";
import { tokensHere } from "../harness/tokens_here.ts";

/**
 * Random misbehaviour of a token under load: any return code from any call, steps of latency, session caps, resets. No operation
 * gives a wrong result, none fails once the token has been well for five seconds, and no PIN is sent twice.
 * CERTAUTOPILOT_TEST_SEED repeats a run.
 */

const tokens = tokensHere();
const { shim } = tokens;
tokens.addToken("campaign");

const ROUNDS = process.env["CERTAUTOPILOT_TEST_LONG"] ? 60 : process.env["CERTAUTOPILOT_TEST_QUICK"] ? 1 : 3;
const TROUBLE_MS = 2500;
/** How long after the token is well an operation may still fail. */
const RECOVERY_MS = 5000;
const AAD = Buffer.from("a record");
const SEED = Number(process.env["CERTAUTOPILOT_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

interface Client {
  right: number;
  wrong: number;
  /** Failures, by the clock. */
  failed: { at: number; message: string }[];
}

async function work(provider: Provider, client: Client, going: () => boolean): Promise<void> {
  const [from, to] = [
    { version: 1, aad: AAD },
    { version: 2, aad: AAD },
  ];
  while (going()) {
    const dek = randomBytes(32);
    const refusal = await refusalOf(async () => {
      const fresh = await provider.rewrap(await provider.wrap(dek, AAD, 1), from, to);
      if (dek.equals(await provider.unwrap(fresh, AAD, 2))) client.right += 1;
      else client.wrong += 1;
    });
    if (refusal !== undefined) {
      client.failed.push({ at: performance.now(), message: `${refusal.code}: ${refusal.message}` });
      await Bun.sleep(20);
    }
  }
}

test(`${ROUNDS} rounds of trouble, seed ${SEED}`, async () => {
  const next = random(SEED);
  const provider = await tokens.openWith("campaign", [1, 2], { sessions: 6, callLimitMs: 3000, startLimitMs: 5000 });
  shim.set(WELL);
  const client: Client = { right: 0, wrong: 0, failed: [] };
  let going = true;
  const clients = Promise.all(Array.from({ length: 12 }, () => work(provider, client, () => going)));
  const late: unknown[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const orders = [problem(shim, next), ...(next() < 0.3 ? [problem(shim, next)] : [])];
    for (const each of orders) shim.set(each);
    await Bun.sleep(TROUBLE_MS);
    shim.set(WELL);
    const wellAt = performance.now();
    await Bun.sleep(RECOVERY_MS);
    const right = client.right;
    await Bun.sleep(500);
    const after = client.failed.filter(({ at }) => at > wellAt + RECOVERY_MS);
    if (after.length > 0 || client.right === right) late.push({ round, orders, failed: after.slice(0, 3), right });
  }
  going = false;
  await clients;
  expect({ late, wrong: client.wrong }).toEqual({ late: [], wrong: 0 });
  expect(client.right).toBeGreaterThan(ROUNDS * 10);
  const codes = new Set(client.failed.map(({ message }) => message.split(":")[0]));
  expect([...codes].filter((code) => code !== "hsm_unavailable" && code !== "hsm_unfit")).toEqual([]);
  expect([shim.get("wrongPins"), shim.get("overlaps")]).toEqual([0, 0]);
}, 1_200_000);
