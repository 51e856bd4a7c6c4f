import { createHash } from "node:crypto";
import type { Pkcs11Config } from "../../config/config.ts";
import { KekError } from "../../errors/errors.ts";
import { ModuleLock } from "./module_lock.ts";
import { type AskPin, pinOf } from "./pin.ts";
import { TokenCounters } from "./token_counters.ts";
import type { TokenSettings } from "./token_settings.ts";
import { TokenState } from "./token_state.ts";

/** From the configuration to the settings of a token, with the memory that the threads of this process share about it. */

/** @throws KekError `config_invalid`, `secret_unreadable`, `secrets_file_exposed`, naming the setting. */
export async function tokenSettings(
  config: Pkcs11Config,
  askPin: AskPin | undefined,
): Promise<{ token: TokenSettings; sessions: number }> {
  const { ownIvs = false } = config;
  const modulePath = required(config.modulePath, "MODULE_PATH", "module_path", "the vendor's PKCS#11 library (.so)");
  const tokenLabel = required(config.tokenLabel, "TOKEN_LABEL", "token_label", "the label of the token to use");
  const pin = await pinOf(config, tokenLabel, askPin);
  const limits = { startMs: config.startLimitMs ?? START_LIMIT_MS, workMs: config.callLimitMs ?? CALL_LIMIT_MS };
  const moduleLock = shared(locks, modulePath, () => new ModuleLock().memory);
  const user = JSON.stringify([modulePath, tokenLabel, pin.file ?? digestOf(pin.value)]);
  const memory = shared(states, user, () => new TokenState().memory);
  const token = {
    modulePath,
    tokenLabel,
    pin,
    softHsmBackup: config.softHsmBackup,
    ownIvs,
    limits,
    moduleLock,
    token: memory,
    counters: new TokenCounters().memory,
  };
  return { token, sessions: config.sessions ?? DEFAULT_SESSIONS };
}

// ---------------------------------------------------------------------------------------------------------------------

/** More sessions than this gain little; an operator may ask for more. */
const DEFAULT_SESSIONS = 32;
const START_LIMIT_MS = 60_000;
const CALL_LIMIT_MS = 10_000;

/** A module is initialised once for each process. */
const locks = new Map<string, SharedArrayBuffer>();
/** What the process knows of a token, by where the PIN comes from: one that was refused says nothing of another. */
const states = new Map<string, SharedArrayBuffer>();

function shared<T>(all: Map<string, T>, name: string, make: () => T): T {
  const found = all.get(name) ?? make();
  all.set(name, found);
  return found;
}

/** Kept in this process's memory only. */
function digestOf(pin: string | undefined): string | undefined {
  return pin && createHash("sha256").update(pin).digest("hex");
}

function required(value: string | undefined, variable: string, key: string, what: string): string {
  if (value !== undefined) return value;
  throw new KekError(
    "config_invalid",
    `CERTAUTOPILOT_ENCRYPTION_PKCS11_${variable} (encryption.pkcs11.${key}) is not set`,
    `the pkcs11 provider needs ${what}: see docs/hsm`,
  );
}
