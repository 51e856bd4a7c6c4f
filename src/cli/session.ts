import process from "node:process";
import type { Config } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { loadConfig } from "../config/load.ts";
import { openInstall } from "../fleet/install_start.ts";
import type { Context } from "../rotation/context.ts";
import { openAuditor } from "../store/audit_log.ts";
import { explainMongo } from "../store/failures.ts";
import { closeStore, openStore } from "../store/store.ts";

/** What every command that works on an install begins and ends with: configuration, connection, lock, provider. */
export async function withInstall<T>(
  configFile: string | undefined,
  work: (context: Context) => Promise<T>,
): Promise<T> {
  const config = loadConfig(configFile);
  const auditor = auditorOf(config);
  const store = await openStore(config.database, { appName: "certautopilot" });
  try {
    const { install, provider } = await openInstall(store, config);
    try {
      return await work({ store, config, install, provider, auditor });
    } finally {
      await provider.close();
    }
  } catch (thrown) {
    throw explainMongo(thrown, config.database.uri) ?? thrown;
  } finally {
    await closeStore(store);
  }
}

/** Who acts, in leases and audit events: a person's command on a host. */
export function auditorOf(config: Config) {
  return openAuditor({
    secret: config.audit.secret,
    actor: `cli ${hostName()} pid ${process.pid}`,
    file: config.audit.file,
  });
}
