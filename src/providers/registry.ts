import type { Config, ProviderName } from "../config/config.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import { EnvProvider } from "./env.ts";
import type { LoginClaims } from "./login_claims.ts";
import type { AskPin } from "./pkcs11/pin.ts";
import { Pkcs11Provider, type Token } from "./pkcs11/provider.ts";
import { tokenSettings } from "./pkcs11/token_config.ts";
import type { Provider, ProviderRecipe } from "./provider.ts";

/** Chooses the provider, after the install's lock has been compared with the configuration. */

export interface Lock {
  provider: ProviderName;
  lockedAt: Date;
}

/**
 * The first check of every command and process.
 * @throws KekError `provider_mismatch`, whose message is a contract with scripts that match it.
 */
export function checkLock(lock: Lock, configured: ProviderName): void {
  if (lock.provider === configured) return;
  throw new KekError(
    "provider_mismatch",
    `KEK provider mismatch: installed="${lock.provider}" (since ${rfc3339(lock.lockedAt)}) but config says "${configured}". Provider is immutable after install.`,
    `set CERTAUTOPILOT_ENCRYPTION_PROVIDER=${lock.provider}, or point CERTAUTOPILOT_DATABASE_URI and _NAME at the right database`,
  );
}

/** What makes an install on a fresh database: the hint of every command that finds none. */
export function howToBegin(configured: ProviderName): string {
  switch (configured) {
    case "env":
      return "start the service first (`certautopilot serve`)";
    case "pkcs11":
      return "make the first key (`certautopilot kek pkcs11-init --version=1`), then start the service (`certautopilot serve`)";
  }
}

export type { AskPin, Token };

/** What a provider is made from. */
export type ProviderConfig = Pick<Config, "encryption" | "secretsFile">;

export interface RegistryOptions {
  /** Asks a person for the PIN of a token, where none is configured. */
  askPin?: AskPin | undefined;
  /** False for commands that do no cryptography: they work while an HSM is unavailable. */
  probe?: boolean;
  /** How the processes of the install agree on logins; without it this process decides alone. */
  claims?: LoginClaims | undefined;
  /** Versions that the install knows: one of their keys is tried where the user may make none. */
  versions?: number[];
}

/**
 * @param lock the install's lock; undefined only on a database that has none yet.
 * @throws KekError `provider_mismatch`, or whatever the provider lacks: it fails fast, before anything is written.
 */
export async function buildRegistry(
  config: ProviderConfig,
  lock: Lock | undefined,
  { askPin, probe = true, claims, versions = [] }: RegistryOptions = {},
): Promise<Provider> {
  if (lock !== undefined) checkLock(lock, config.encryption.provider);
  const provider = makeProvider(await recipeOf(config, probe ? askPin : undefined), claims);
  try {
    if (probe) await provider.probe(versions);
  } catch (thrown) {
    await provider.close();
    throw thrown;
  }
  return provider;
}

/** A thread makes its own instance from what `Provider.recipe` gave. */
export function makeProvider(recipe: ProviderRecipe, claims?: LoginClaims): Provider {
  switch (recipe.provider) {
    case "env":
      return new EnvProvider(recipe);
    case "pkcs11":
      return new Pkcs11Provider(recipe.token, recipe.sessions, { claims, separateTasks: recipe.separateTasks });
  }
}

/** For `pkcs11-init`, which makes keys: the token alone, probed. @throws KekError what the token lacks. */
export async function openToken(
  config: ProviderConfig,
  askPin: AskPin | undefined,
  claims?: LoginClaims,
): Promise<Token> {
  const { token, sessions } = await tokenSettings(config.encryption.pkcs11 ?? {}, askPin);
  const provider = new Pkcs11Provider(token, sessions, { claims });
  try {
    await provider.probe();
  } catch (thrown) {
    await provider.close();
    throw thrown;
  }
  return provider;
}

// ---------------------------------------------------------------------------------------------------------------------

async function recipeOf({ encryption, secretsFile }: ProviderConfig, askPin?: AskPin): Promise<ProviderRecipe> {
  switch (encryption.provider) {
    case "env":
      return { provider: "env", keks: encryption.env.keks, secretsFile };
    case "pkcs11":
      return { provider: "pkcs11", separateTasks: true, ...(await tokenSettings(encryption.pkcs11 ?? {}, askPin)) };
  }
}
