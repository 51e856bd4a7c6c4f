import { describe, expect, spyOn, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { KekError } from "../../src/errors/errors.ts";
import { Drain } from "../../src/fleet/drain.ts";
import { Keyring } from "../../src/fleet/keyring.ts";
import { makeCanary, proveCanary } from "../../src/providers/canary.ts";
import { EnvProvider } from "../../src/providers/env.ts";
import type { Provider } from "../../src/providers/provider.ts";
import { buildRegistry, checkLock, probe } from "../../src/providers/registry.ts";

const KEYS: Record<number, string> = { 1: randomBytes(32).toString("hex"), 2: randomBytes(32).toString("hex") };
const AAD = Buffer.from("aad");

/** One suite over every provider: each entry makes an instance that holds versions 1 and 2. */
const PROVIDERS: [string, () => Provider][] = [
  [
    "env",
    () =>
      new EnvProvider({
        keks: { 1: { setting: "V1", hex: KEYS[1] as string }, 2: { setting: "V2", hex: KEYS[2] as string } },
        secretsFile: undefined,
      }),
  ],
];

const codeOf = async (work: () => unknown): Promise<string | undefined> => {
  try {
    await work();
  } catch (thrown) {
    return (thrown as KekError).code;
  }
  return undefined;
};

for (const [name, make] of PROVIDERS) {
  describe(`the contract of a provider: ${name}`, () => {
    test("wraps and unwraps under a loaded version only", async () => {
      const provider = make();
      expect((await provider.available()).sort()).toEqual([1, 2]);
      expect(await codeOf(() => provider.wrap(Buffer.alloc(32), AAD, 1))).toBe("version_not_loaded");
      await provider.load(1);
      const dek = randomBytes(32);
      const wrapped = await provider.wrap(dek, AAD, 1);
      expect(wrapped.length).toBe(60);
      expect(dek.equals(await provider.unwrap(wrapped, AAD, 1))).toBe(true);
      expect(Buffer.from(await provider.wrap(dek, AAD, 1)).equals(Buffer.from(wrapped))).toBe(false);
      await provider.close();
    });

    test("refuses other bytes, other AAD, another version", async () => {
      const provider = make();
      await provider.load(1);
      await provider.load(2);
      const wrapped = Buffer.from(await provider.wrap(randomBytes(32), AAD, 1));
      for (let at = 0; at < wrapped.length; at += 7) {
        const changed = Buffer.from(wrapped);
        changed[at] = (changed[at] ?? 0) ^ 0x80;
        expect(await codeOf(() => provider.unwrap(changed, AAD, 1))).toBe("envelope_does_not_open");
      }
      expect(await codeOf(() => provider.unwrap(wrapped.subarray(0, 59), AAD, 1))).toBe("envelope_does_not_open");
      expect(await codeOf(() => provider.unwrap(wrapped, Buffer.from("other"), 1))).toBe("envelope_does_not_open");
      expect(await codeOf(() => provider.unwrap(wrapped, AAD, 2))).toBe("envelope_does_not_open");
      await provider.close();
    });

    test("forgets, and loads again", async () => {
      const provider = make();
      await provider.load(1);
      const wrapped = await provider.wrap(Buffer.alloc(32, 7), AAD, 1);
      await provider.forget(1);
      await provider.forget(1);
      expect(await codeOf(() => provider.unwrap(wrapped, AAD, 1))).toBe("version_not_loaded");
      await provider.load(1);
      expect((await provider.unwrap(wrapped, AAD, 1))[0]).toBe(7);
      expect(await codeOf(() => provider.load(9))).toBe("key_missing");
      await provider.close();
    });

    test("passes the probe, and its canary proves one key and no other", async () => {
      const provider = make();
      await provider.load(1);
      await provider.load(2);
      await probe(provider, 1);
      const canary = await makeCanary(provider, "install", 1);
      await proveCanary(provider, "install", 1, canary);
      expect(await codeOf(() => proveCanary(provider, "another install", 1, canary))).toBe("key_mismatch");
      expect(await codeOf(() => proveCanary(provider, "install", 2, canary))).toBe("key_mismatch");
      await provider.close();
    });
  });
}

test("env: the bytes of a key are zeroed when it is forgotten, and on close", () => {
  const decoded: Buffer[] = [];
  const from = Buffer.from;
  const spy = spyOn(Buffer, "from").mockImplementation(((value: string, encoding?: BufferEncoding) => {
    const made = from(value, encoding);
    if (encoding === "hex") decoded.push(made);
    return made;
  }) as typeof Buffer.from);
  try {
    const provider = (PROVIDERS[0] as (typeof PROVIDERS)[number])[1]();
    provider.load(1);
    provider.load(2);
    const held = decoded.filter((bytes) => bytes.some((byte) => byte !== 0));
    expect(held).toHaveLength(2);
    provider.forget(1);
    expect(held[0]?.every((byte) => byte === 0)).toBe(true);
    expect(held[1]?.every((byte) => byte === 0)).toBe(false);
    provider.close();
    expect(held[1]?.every((byte) => byte === 0)).toBe(true);
  } finally {
    spy.mockRestore();
  }
});

test("a provider that opens what was tampered with does not pass the probe", async () => {
  const careless = {
    name: "env",
    wrap: (dek: Uint8Array) => Buffer.concat([dek, Buffer.alloc(28)]),
    unwrap: (wrap: Uint8Array) => wrap.subarray(0, 32),
  };
  expect(probe(careless as unknown as Provider, 1)).rejects.toThrow("tampered");
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
  expect(buildRegistry(broken, lock)).rejects.toThrow(message);
});

describe("the keyring", () => {
  const ring = () => {
    const provider = (PROVIDERS[0] as (typeof PROVIDERS)[number])[1]();
    provider.load(1);
    const keyring = new Keyring(provider);
    keyring.add(1, "canary");
    return keyring;
  };

  test("does not forget a key while an operation with it is in hand", async () => {
    const keyring = ring();
    let finish: () => void = () => undefined;
    const using = keyring.use(1, async (provider) => {
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return provider.wrap(Buffer.alloc(32), AAD, 1);
    });
    let dropped = false;
    const dropping = keyring.drop(1).then(() => {
      dropped = true;
    });
    expect(await codeOf(() => keyring.use(1, () => 1))).toBe("version_not_loaded");
    await Bun.sleep(10);
    expect(dropped).toBe(false);
    finish();
    expect((await using).length).toBe(60);
    await dropping;
    expect(keyring.loaded).toEqual([]);
  });

  test("drains a version before it is dropped, unless the process does not serve yet", async () => {
    const keyring = ring();
    let woken = 0;
    const drain = new Drain(60, () => {
      woken += 1;
    });
    expect(await drain.settle(keyring, [], true)).toBe(false);
    expect(keyring.loaded).toEqual([1]);
    await Bun.sleep(90);
    expect(woken).toBe(1);
    expect(await drain.settle(keyring, [], true)).toBe(true);
    expect(keyring.loaded).toEqual([]);
    const idle = ring();
    expect(await new Drain(60_000, () => undefined).settle(idle, [], false)).toBe(true);
  });
});
