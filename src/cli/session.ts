import process from "node:process";
import type { Config } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import { KekError } from "../errors/errors.ts";
import { openInstall } from "../fleet/open_install.ts";
import type { AskPin } from "../providers/registry.ts";
import type { Context } from "../rotation/context.ts";
import { closeAuditor, openAuditor } from "../store/audit_log.ts";
import { explainMongo } from "../store/mongodb_errors.ts";
import { closeStore, openStore } from "../store/store.ts";
import type { Output } from "./output.ts";

export interface InstallNeeds {
  /** For what is asked on the way. */
  output: Output;
  /** False for commands that do no cryptography: they work while an HSM is unavailable. */
  keys?: boolean;
  /** `--hsm-sessions`, where a command has it. */
  hsmSessions?: number | undefined;
}

/** What every command that works on an install begins and ends with: configuration, connection, lock, provider. */
export async function withInstall<T>(
  configFile: string | undefined,
  { output, keys = true, hsmSessions }: InstallNeeds,
  work: (context: Context) => Promise<T>,
): Promise<T> {
  return await withDatabase(configFile, output, async (base) => {
    const config = withHsmSessions(base.config, hsmSessions);
    const { install, provider } = await openInstall(base.store, config, { probe: keys, askPin: askPinOn(output) });
    try {
      return await work({ ...base, config, install, provider });
    } finally {
      await provider.close();
    }
  });
}

/** The same for a command that makes an install: nothing is known of it yet. */
export async function withDatabase<T>(
  configFile: string | undefined,
  output: Output,
  work: (base: Pick<Context, "store" | "config" | "auditor">) => Promise<T>,
): Promise<T> {
  const config = loadConfig(configFile);
  // Who acts, in leases and audit events: a person's command on a host. Its stdout is its result.
  const actor = `cli ${hostName()} pid ${process.pid}`;
  const auditor = openAuditor(config, actor, { log: output.log, stream: "stderr" });
  try {
    const store = await openStore(config.database, { appName: "certautopilot" });
    try {
      return await work({ store, config, auditor });
    } catch (thrown) {
      throw explainMongo(thrown, config.database.uri) ?? thrown;
    } finally {
      await closeStore(store);
    }
  } finally {
    await closeAuditor(auditor);
  }
}

/** @throws KekError `usage` when the install's keys are not in an HSM. */
export function withHsmSessions(config: Config, sessions: number | undefined): Config {
  if (sessions === undefined) return config;
  if (config.encryption.provider !== "pkcs11") {
    throw new KekError("usage", "--hsm-sessions is for keys in an HSM, and the provider here is env", "leave it out");
  }
  const { encryption } = config;
  return { ...config, encryption: { ...encryption, pkcs11: { ...encryption.pkcs11, sessions } } };
}

/** A PIN that is configured nowhere is asked for on the terminal. */
export function askPinOn(output: Output): AskPin {
  return async (tokenLabel) => await output.askSecret(`PIN of token "${tokenLabel}": `);
}
