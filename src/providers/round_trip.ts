import { randomFillSync, timingSafeEqual } from "node:crypto";
import { KEY_BYTES } from "../envelope/gcm.ts";
import { KekError } from "../errors/errors.ts";
import type { Awaitable } from "./provider.ts";

/**
 * The least that every key must do: give back what it wrapped under the same AAD, and refuse a wrap that was changed.
 * @throws KekError `provider_unavailable` naming what failed.
 */
export async function roundTrip(key: {
  wrap(dek: Uint8Array, aad: Uint8Array): Awaitable<Uint8Array>;
  unwrap(wrapped: Uint8Array, aad: Uint8Array): Awaitable<Uint8Array>;
}): Promise<void> {
  const secret = randomFillSync(Buffer.alloc(KEY_BYTES));
  const aad = Buffer.from("certautopilot/probe/1");
  const wrapped = await key.wrap(secret, aad);
  const back = await key.unwrap(wrapped, aad);
  if (!timingSafeEqual(back, secret)) throw unavailable("does not give back what it wrapped");
  const tampered = Buffer.from(wrapped);
  tampered[20] = (tampered[20] ?? 0) ^ 1;
  try {
    await key.unwrap(tampered, aad);
  } catch {
    return;
  }
  throw unavailable("opens a tampered wrap");
}

function unavailable(what: string): KekError {
  return new KekError("provider_unavailable", `the provider ${what}`, "do not use it: run `certautopilot kek verify`");
}
