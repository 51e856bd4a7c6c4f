import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { Drain } from "../../src/fleet/drain.ts";
import { Keyring } from "../../src/fleet/keyring.ts";
import { EnvProvider } from "../../src/providers/env.ts";
import { codeOf } from "../harness/codes.ts";

const AAD = Buffer.from("aad");

describe("the keyring", () => {
  const ring = () => {
    const keks = { 1: { setting: "V1", hex: randomBytes(32).toString("hex") } };
    const provider = new EnvProvider({ keks, secretsFile: undefined });
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
