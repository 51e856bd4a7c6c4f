import { chownSync, mkdtempSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Config, KekHex, ProviderName } from "../config/config.ts";
import { bareEnvironment } from "../config/environment.ts";
import { kekVersionOf } from "../config/schema.ts";
import { KekError } from "../errors/errors.ts";
import { SILENT } from "../errors/log.ts";
import { loadVerified, stageUnknown } from "../fleet/key_loader.ts";
import { ensureCollections } from "../fleet/open_install.ts";
import { buildRegistry, checkLock } from "../providers/registry.ts";
import { closeAuditor, openAuditor } from "../store/audit_log.ts";
import { lockInstall, readInstall } from "../store/install.ts";
import { closeStore, openStore } from "../store/store.ts";
import { readVersions } from "../store/versions.ts";
import { must, run } from "./command.ts";
import type { CurrentState, Ids } from "./current_state.ts";
import type { DesiredToken } from "./desired_state.ts";
import { executableDirectory } from "./host_facts.ts";
import { LAYOUT } from "./layout.ts";
import { asServiceUser } from "./system_user.ts";

/** The lock of the database, and KEK version 1 made known, before any service starts. */

export interface FirstKey {
  config: Config;
  token: DesiredToken | undefined;
  /** The group that a token's directory asks for. */
  tokenGroup: string | undefined;
  user: Ids;
  actor: string;
}

/** @throws KekError `provider_mismatch`, or what the provider lacks. */
export async function makeFirstKey(provider: ProviderName, first: FirstKey): Promise<void> {
  await MAKE[provider](first);
}

/**
 * Whether the keys that a host is to have are the ones of the install it joins. Nothing is written.
 * @throws KekError `key_missing`, `key_mismatch`.
 */
export async function proveCarried(secrets: Record<string, string>, database: CurrentState["database"]): Promise<void> {
  if (!database.seen || database.lock === undefined) return;
  const { provider: name, installId, lockedAt } = database.lock;
  const encryption = { provider: name, currentVersion: undefined, env: { keks: keksIn(secrets) } };
  const { keks } = encryption.env;
  // What is staged need not be held yet; what is held must be the install's.
  const verified = database.versions.filter(
    ({ _id, state }) => state === "active" || (state !== "destroyed" && _id in keks),
  );
  // Keys in a token are verified where the token is used: by the service, as its own user.
  if (Object.keys(keks).length === 0) return;
  const provider = await buildRegistry({ encryption, secretsFile: undefined }, { provider: name, lockedAt });
  try {
    for (const doc of verified) await loadVerified(provider, installId, doc);
  } finally {
    await provider.close();
  }
}

/** Whether a database is locked; true as well where that cannot be seen. */
export async function isLocked(config: Config): Promise<boolean> {
  try {
    const store = await openStore(config.database, { appName: "certautopilot install" });
    try {
      return (await readInstall(store)) !== undefined;
    } finally {
      await closeStore(store);
    }
  } catch {
    // It may have been locked before it went away: keys are not given up on a guess.
    return true;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const MAKE: Record<ProviderName, (first: FirstKey) => Promise<void>> = { env: lockForEnv, pkcs11: makeInToken };

function keksIn(secrets: Record<string, string>): Record<number, KekHex> {
  const keks: Record<number, KekHex> = {};
  for (const [setting, hex] of Object.entries(secrets)) {
    const version = kekVersionOf(setting.replace("CERTAUTOPILOT_ENCRYPTION_ENV_", ""));
    if (version !== undefined) keks[version] = { setting, hex };
  }
  return keks;
}

async function lockForEnv({ config, actor }: FirstKey): Promise<void> {
  const auditor = openAuditor(config, actor, { log: SILENT, stream: "stderr" });
  const store = await openStore(config.database, { appName: "certautopilot install" });
  const provider = await buildRegistry(config, undefined);
  try {
    await ensureCollections(store);
    const install = await lockInstall(store, auditor, provider.name, "install");
    checkLock({ provider: install.provider, lockedAt: install.locked_at }, provider.name);
    const known = await readVersions(store);
    for (const doc of known) if (doc.state === "active") await loadVerified(provider, install.install_id, doc);
    await stageUnknown(store, { auditor, provider, installId: install.install_id, known });
  } finally {
    await provider.close();
    await closeStore(store);
    await closeAuditor(auditor);
  }
}

/**
 * By `kek pkcs11-init`, as the service user: what a module writes belongs to whoever ran it, and a token that root alone can
 * open is of no use to the service. The PIN is in its file, the database's password in the secrets file.
 */
async function makeInToken({ config, token, tokenGroup, user }: FirstKey): Promise<void> {
  const settings = {
    CERTAUTOPILOT_DATABASE_NAME: config.database.name,
    CERTAUTOPILOT_SECRETS_FILE: LAYOUT.secrets,
    CERTAUTOPILOT_ENCRYPTION_PROVIDER: config.encryption.provider,
    CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: token?.modulePath ?? "",
    CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: token?.label ?? "",
    CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE: LAYOUT.pin,
    HOME: LAYOUT.state,
  };
  const unpacked = mkdtempSync(join(executableDirectory(UNPACKED_IN), "certautopilot-init-"));
  try {
    chownSync(unpacked, user.uid, user.gid);
    const command = [LAYOUT.binary, "kek", "pkcs11-init", "--version=1", "--json"] as const;
    const env = bareEnvironment({ ...settings, BUN_TMPDIR: unpacked });
    const ran = await run([...(await asServiceUser(user, tokenGroup)), ...command], { env, limitMs: 300_000 });
    if (ran.code !== 0) throw asError(ran.stdout, ran.stderr);
  } finally {
    await must(["rm", "-rf", "--", unpacked]);
  }
}

/**
 * The embedded pkcs11.node is unpacked into a directory of its own before it is loaded, and that must not be mounted noexec.
 * In these nobody but root can put something else in a directory's place. The last one's file system holds the program.
 */
const UNPACKED_IN = ["/run", "/tmp", "/var/tmp", "/dev/shm", "/usr/local/lib", dirname(LAYOUT.binary)];

/** What the command said as JSON, as if it had been thrown here. */
function asError(stdout: string, stderr: string): KekError {
  try {
    const { error } = JSON.parse(stdout) as { error: Pick<KekError, "code" | "message" | "hint"> };
    return new KekError(error.code, error.message, error.hint);
  } catch {
    const said = stderr.trim().split("\n").at(-1) ?? "it said nothing";
    return new KekError(
      "unexpected",
      `kek pkcs11-init as user certautopilot failed: ${said}`,
      "run it again with --debug",
    );
  }
}
