import { expect, spyOn, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { KekError } from "../../src/errors/errors.ts";
import { nothingActive } from "../../src/fleet/first_version.ts";
import { lacks } from "../../src/fleet/key_loader.ts";
import { EnvProvider } from "../../src/providers/env.ts";
import { buildRegistry, checkLock } from "../../src/providers/registry.ts";
import { roundTrip } from "../../src/providers/round_trip.ts";
import { codeOf } from "../harness/codes.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** What is particular to keys in memory, and what is asked before any provider is made. */

const AAD = Buffer.from("aad");
const directory = scratchDirectory();
const hex = () => randomBytes(32).toString("hex");

test("the bytes of a key are zeroed when it is forgotten, when it is not the install's, and on close", async () => {
  const decoded: Buffer[] = [];
  const from = Buffer.from;
  const spy = spyOn(Buffer, "from").mockImplementation(((value: string, encoding?: BufferEncoding) => {
    const made = from(value, encoding);
    if (encoding === "hex") decoded.push(made);
    return made;
  }) as typeof Buffer.from);
  try {
    const keks = Object.fromEntries([1, 2, 3].map((version) => [version, { setting: `V${version}`, hex: hex() }]));
    const provider = new EnvProvider({ keks, secretsFile: undefined });
    for (const version of [1, 2, 3]) provider.load(version);
    const held = decoded.filter((bytes) => bytes.some((byte) => byte !== 0));
    expect(held).toHaveLength(3);
    const zeroed = () => held.map((bytes) => bytes.every((byte) => byte === 0));
    provider.release(1);
    expect(zeroed()).toEqual([true, false, false]);
    const proof = { wrap: Buffer.alloc(60), aad: AAD, digest: Buffer.alloc(32) };
    expect(await codeOf(() => provider.load(2, proof))).toBe("key_mismatch");
    expect(zeroed()).toEqual([true, true, false]);
    provider.close();
    expect(zeroed()).toEqual([true, true, true]);
  } finally {
    spy.mockRestore();
  }
});

test("a copy of the secrets stands for the original: the same keys, and only those of the file", () => {
  const [first, second] = [hex(), hex()];
  const file = join(directory, "copy");
  writeFileSync(file, `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1=${first}\n`, { mode: 0o600 });
  const keks = { 1: { setting: "V1", hex: first }, 2: { setting: "V2", hex: second } };
  const provider = new EnvProvider({ keks, secretsFile: undefined });
  provider.load(1);
  const wrapped = provider.wrap(Buffer.alloc(32, 5), AAD, 1);
  const copy = provider.overCopy(file);
  expect(copy.held()).toEqual([1]);
  copy.load(1);
  expect(copy.unwrap(wrapped, AAD, 1)[0]).toBe(5);
});

test("what opens a tampered wrap, or gives other bytes back, does not pass the round trip", async () => {
  const careless = {
    wrap: (dek: Uint8Array) => Buffer.concat([dek, Buffer.alloc(28)]),
    unwrap: (wrap: Uint8Array) => wrap.subarray(0, 32),
  };
  await expect(roundTrip({ ...careless, unwrap: () => Buffer.alloc(32) })).rejects.toThrow("does not give back");
  // Byte 20, which is changed, is no part of what this one opens.
  const blind = { ...careless, wrap: (dek: Uint8Array) => Buffer.concat([Buffer.alloc(28), dek]) };
  await expect(roundTrip({ ...blind, unwrap: (wrap) => wrap.subarray(28) })).rejects.toThrow("tampered");
  await expect(roundTrip(careless)).rejects.toThrow("tampered");
});

test("the lock is compared before the provider is made, with the contract's message", async () => {
  const lock = { provider: "pkcs11", lockedAt: new Date("2026-05-01T09:00:00.123Z") } as const;
  const message =
    'KEK provider mismatch: installed="pkcs11" (since 2026-05-01T09:00:00Z) but config says "env". Provider is immutable after install.';
  expect(() => checkLock(lock, "env")).toThrow(message);
  const broken = {
    encryption: { provider: "env", currentVersion: 1, env: { keks: { 1: { setting: "x", hex: "bad" } } } },
    secretsFile: undefined,
  } as const;
  await expect(buildRegistry(broken, lock)).rejects.toThrow(message);
});

test("under a lock for env, a module that is configured is not even looked for", async () => {
  const config = {
    encryption: {
      provider: "pkcs11",
      currentVersion: 1,
      env: { keks: {} },
      pkcs11: { modulePath: "/nowhere/module.so", tokenLabel: "x", pin: "y" },
    },
    secretsFile: undefined,
  } as const;
  const lock = { provider: "env", lockedAt: new Date(0) } as const;
  expect(await codeOf(() => buildRegistry(config, lock))).toBe("provider_mismatch");
  expect(await codeOf(() => buildRegistry(config, undefined))).toBe("hsm_module");
});

test("a key that the install knows is to be copied, never generated; only a new one is made", () => {
  const file = join(directory, "without");
  writeFileSync(file, "OTHER=1\n", { mode: 0o600 });
  const proof = { wrap: Buffer.alloc(60), aad: AAD, digest: Buffer.alloc(32) };
  for (const secretsFile of [file, undefined]) {
    const provider = new EnvProvider({ keks: {}, secretsFile });
    const hintOf = (load: () => void) => {
      try {
        load();
      } catch (thrown) {
        return (thrown as KekError).hint;
      }
      throw new Error("it was loaded");
    };
    const known = hintOf(() => provider.load(5, proof));
    expect(known).toContain("CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V5");
    expect(known).toMatch(/from a host that has it, or from your secret store; never generate it/);
    expect(known).not.toContain("openssl");
    expect(hintOf(() => provider.load(5))).toMatch(/generated once for all hosts: openssl rand -hex 32/);
    const reasons = { problems: [], available: [], reasons: new Map() };
    expect(lacks(5, reasons, provider).hint).toBe(known);
    const held = [{ _id: 5 }];
    expect(nothingActive(provider, 5, held).hint).toContain("never generate it");
    expect(nothingActive(provider, 5).hint).toContain("openssl");
  }
});
