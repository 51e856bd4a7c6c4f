import { randomFillSync, timingSafeEqual } from "node:crypto";
import type { Config, ProviderName } from "../config/config.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import { EnvProvider } from "./env.ts";
import type { Provider } from "./provider.ts";

/** Chooses the provider, after the install's lock has been compared with the configuration. */

export interface Lock {
  provider: ProviderName;
  lockedAt: Date;
}

/**
 * The first check of every command and process.
 * @throws KekError `provider_mismatch`, the contract message of DESIGN.md section 6.
 */
export function checkLock(lock: Lock, configured: ProviderName): void {
  if (lock.provider === configured) return;
  throw new KekError(
    "provider_mismatch",
    `KEK provider mismatch: installed="${lock.provider}" (since ${rfc3339(lock.lockedAt)}) but config says "${configured}". Provider is immutable after install.`,
    `set CERTAUTOPILOT_ENCRYPTION_PROVIDER=${lock.provider}, or point CERTAUTOPILOT_DATABASE_URI and _NAME at the right database`,
  );
}

/** What a provider is made from: plain data, so that a worker thread can make its own. */
export type ProviderConfig = Pick<Config, "encryption" | "secretsFile">;

/**
 * @param lock the install's lock; undefined only on a database that has none yet.
 * @throws KekError `provider_mismatch`, or whatever the provider lacks: it fails fast, before anything is written.
 */
export async function buildRegistry(config: ProviderConfig, lock: Lock | undefined): Promise<Provider> {
  if (lock !== undefined) checkLock(lock, config.encryption.provider);
  return makeProvider(config);
}

export function makeProvider(config: ProviderConfig): Provider {
  switch (config.encryption.provider) {
    case "env":
      return new EnvProvider({ keks: config.encryption.env.keks, secretsFile: config.secretsFile });
    case "pkcs11":
      throw new KekError(
        "provider_unavailable",
        "the pkcs11 provider is not part of this release",
        "set CERTAUTOPILOT_ENCRYPTION_PROVIDER=env",
      );
  }
}

/**
 * The capability probe: a real round trip with AAD, and a tampered wrap that must not open.
 * @throws KekError `provider_unavailable` naming what failed.
 */
export async function probe(provider: Provider, version: number): Promise<void> {
  const secret = randomFillSync(Buffer.alloc(32));
  const aad = Buffer.from("certautopilot/probe/1");
  const wrapped = await provider.wrap(secret, aad, version);
  const fail = (what: string) =>
    new KekError(
      "provider_unavailable",
      `the ${provider.name} provider ${what}`,
      "do not use it: run `certautopilot kek verify`",
    );
  const back = await provider.unwrap(wrapped, aad, version);
  if (!timingSafeEqual(back, secret)) throw fail("does not give back what it wrapped");
  const tampered = Buffer.from(wrapped);
  tampered[20] = (tampered[20] ?? 0) ^ 1;
  try {
    await provider.unwrap(tampered, aad, version);
  } catch {
    return;
  }
  throw fail("opens a tampered wrap");
}
