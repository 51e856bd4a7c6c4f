import { KekError } from "../errors/errors.ts";
import type { Provider } from "../providers/provider.ts";

/** With which version a fresh install begins: the declared one, or the only one there is. */
export async function firstVersion(provider: Provider, declared: number | undefined): Promise<number | undefined> {
  const held = await provider.available();
  if (declared !== undefined) return held.includes(declared) ? declared : undefined;
  return held.length === 1 ? held[0] : undefined;
}

/** Why a fresh install cannot begin. */
export function nothingActive(provider: Provider, declared: number | undefined): KekError {
  if (declared === undefined) {
    return new KekError(
      "config_invalid",
      "a fresh install needs one KEK, and to know which: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION is not set",
      `set CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=1, and ${provider.howToGive(1)}`,
    );
  }
  return new KekError(
    "key_missing",
    `no key for KEK version ${declared}, which CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION declares`,
    `${provider.howToGive(declared)}; or declare another version`,
  );
}
