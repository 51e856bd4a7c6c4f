import type { Config } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import type { InstallDoc } from "../protocol/documents.ts";
import type { Provider } from "../providers/provider.ts";
import {
  type AskPin,
  buildRegistry,
  checkLock,
  howToBegin,
  type Lock,
  type RegistryOptions,
} from "../providers/registry.ts";
import { type Auditor, ensureAuditLog } from "../store/audit_log.ts";
import { ensureSignals } from "../store/change_signals.ts";
import { ensureHeartbeats } from "../store/heartbeats.ts";
import { lockInstall, readInstall } from "../store/install.ts";
import { LoginRegister } from "../store/logins.ts";
import { ensureRotations } from "../store/rotations.ts";
import type { Store } from "../store/store.ts";
import { ensureVersions, readVersions } from "../store/versions.ts";
import { firstVersion, nothingActive } from "./first_version.ts";

/** How a process comes to an install: lock first, provider next, and only then anything written. */

export interface OpenedInstall {
  install: InstallDoc;
  provider: Provider;
}

/**
 * For a process of the fleet: locks a fresh database.
 * @throws KekError `provider_mismatch`, or what the provider lacks.
 */
export async function openOrLockInstall(
  store: Store,
  config: Config,
  auditor: Auditor,
  askPin?: AskPin,
): Promise<OpenedInstall> {
  const found = await readInstall(store);
  const provider = await buildRegistry(config, found && lockOf(found), {
    askPin,
    // Until there is an install there is no other process.
    claims: found && new LoginRegister(store, false),
  });
  try {
    return { install: await lockOrCheck(store, { config, auditor, provider, found }), provider };
  } catch (thrown) {
    await provider.close();
    throw thrown;
  }
}

/**
 * For a command: never creates an install.
 * @throws KekError `not_installed` on a fresh database, else as above.
 */
export async function openInstall(store: Store, config: Config, options: RegistryOptions): Promise<OpenedInstall> {
  const install = await readInstall(store);
  if (install === undefined) {
    throw new KekError(
      "not_installed",
      `database "${config.database.name}" holds no install: kek_install is empty`,
      `${howToBegin(config.encryption.provider)}, or set CERTAUTOPILOT_DATABASE_NAME to the right database`,
    );
  }
  const provider = await buildRegistry(config, lockOf(install), {
    ...options,
    claims: new LoginRegister(store, true),
    versions: options.probe === false ? [] : (await readVersions(store)).map(({ _id }) => _id),
  });
  return { install, provider };
}

/** The indexes that the protocol stands on. Making one that is there does nothing. */
export async function ensureCollections(store: Store): Promise<void> {
  await Promise.all([
    ensureAuditLog(store),
    ensureVersions(store),
    ensureRotations(store),
    ensureHeartbeats(store),
    ensureSignals(store),
  ]);
  if (import.meta.crashPoints) crashPoint("collections.ensured");
}

// ---------------------------------------------------------------------------------------------------------------------

function lockOf({ provider, locked_at }: InstallDoc): Lock {
  return { provider, lockedAt: locked_at };
}

async function lockOrCheck(
  store: Store,
  {
    config,
    auditor,
    provider,
    found,
  }: { config: Config; auditor: Auditor; provider: Provider; found: InstallDoc | undefined },
): Promise<InstallDoc> {
  // A database that cannot begin is not locked either.
  const declared = config.encryption.currentVersion;
  if (found === undefined && (provider.staging === "by_init" || (await firstVersion(provider, declared)) === undefined))
    throw nothingActive(provider, declared);
  await ensureCollections(store);
  const install = found ?? (await lockInstall(store, auditor, provider.name, "service"));
  checkLock(lockOf(install), provider.name);
  return install;
}
