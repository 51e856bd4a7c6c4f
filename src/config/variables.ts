import { KekError } from "../errors/errors.ts";
import { PREFIX } from "./environment.ts";

/** `CERTAUTOPILOT_…` variables and the places they have in config.yaml. */

/** config.yaml as it was read, before anybody has checked it. */
export type Tree = { [key: string]: unknown };

/** Where each variable lands in the shape of config.yaml. `_` separates words inside a name too, so this is a table. */
const VARIABLES: Record<string, readonly [string, ...string[]]> = {
  DATABASE_URI: ["database", "uri"],
  DATABASE_NAME: ["database", "name"],
  ENCRYPTION_PROVIDER: ["encryption", "provider"],
  ENCRYPTION_CURRENT_VERSION: ["encryption", "current_version"],
  ENCRYPTION_ROTATION_PERIOD: ["encryption", "rotation_period"],
  ENCRYPTION_PKCS11_MODULE_PATH: ["encryption", "pkcs11", "module_path"],
  ENCRYPTION_PKCS11_TOKEN_LABEL: ["encryption", "pkcs11", "token_label"],
  ENCRYPTION_PKCS11_PIN: ["encryption", "pkcs11", "pin"],
  ENCRYPTION_PKCS11_PIN_FILE: ["encryption", "pkcs11", "pin_file"],
  ENCRYPTION_PKCS11_SESSIONS: ["encryption", "pkcs11", "sessions"],
  ENCRYPTION_PKCS11_LOGIN_LIMIT_MS: ["encryption", "pkcs11", "login_limit_ms"],
  ENCRYPTION_PKCS11_CALL_LIMIT_MS: ["encryption", "pkcs11", "call_limit_ms"],
  ENCRYPTION_PKCS11_USE_GCM_IV_FROM_HSM: ["encryption", "pkcs11", "use_gcm_iv_from_hsm"],
  ENCRYPTION_PKCS11_SOFTHSM_BACKUP_DIR: ["encryption", "pkcs11", "softhsm_backup_dir"],
  SECRETS_FILE: ["secrets_file"],
  INSTANCE_NAME: ["instance_name"],
  SERVER_LISTEN: ["server", "listen"],
  SERVER_TLS_CERT_FILE: ["server", "tls_cert_file"],
  SERVER_TLS_KEY_FILE: ["server", "tls_key_file"],
  SERVER_HOSTS: ["server", "hosts"],
  API_TOKEN_FILE: ["api", "token_file"],
  API_SOCKET: ["api", "socket"],
  AUDIT_SECRET: ["audit", "secret"],
  AUDIT_FILE: ["audit", "file"],
  AUDIT_SYSLOG: ["audit", "syslog"],
  AUDIT_SYSLOG_CA_FILE: ["audit", "syslog_ca_file"],
  FLEET_BEAT_MS: ["fleet", "beat_ms"],
  FLEET_LEASE_MS: ["fleet", "lease_ms"],
  FLEET_EVICTION_MS: ["fleet", "eviction_ms"],
  FLEET_DRAIN_MS: ["fleet", "drain_ms"],
  FIELDS: ["fields"],
};
/** Given as one text, with commas. */
const LISTS = new Set(["FIELDS", "SERVER_HOSTS"]);

/** Lays variables over a tree, by name. Names it does not know are left alone: other tools share the environment. */
export function overlay(tree: Tree, variables: Record<string, string>): Tree {
  const result = structuredClone(tree);
  for (const [name, value] of Object.entries(variables)) {
    if (!name.startsWith(PREFIX)) continue;
    const bare = name.slice(PREFIX.length);
    if (VARIABLES[bare]) {
      const listed = LISTS.has(bare) ? value.split(",").map((item) => item.trim()) : value;
      assign(result, VARIABLES[bare], listed);
    }
  }
  return result;
}

/** @returns the variable that sets a place in config.yaml, or one above it. */
export function variableOf(path: string[]): string | undefined {
  const found = Object.entries(VARIABLES).find(
    ([, place]) => place.join(".") === path.slice(0, place.length).join("."),
  );
  return found === undefined ? undefined : PREFIX + found[0];
}

// ---------------------------------------------------------------------------------------------------------------------

function assign(tree: Tree, [head, ...rest]: readonly string[], value: unknown): void {
  if (head === undefined) return;
  if (rest.length === 0) {
    tree[head] = value;
    return;
  }
  if (tree[head] === undefined || tree[head] === null) tree[head] = {};
  if (typeof tree[head] !== "object" || Array.isArray(tree[head])) {
    throw new KekError(
      "config_invalid",
      `${head} in the configuration file is not a section`,
      "see the table of settings in README.md",
    );
  }
  assign(tree[head] as Tree, rest, value);
}
