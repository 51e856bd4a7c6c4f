import { existsSync, readFileSync, statSync } from "node:fs";
import * as v from "valibot";
import { parse as parseYaml } from "yaml";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Config, KekHex, Pkcs11Config, SyslogTarget } from "./config.ts";
import { checkUri, DATABASE_NAME, databaseOfUri } from "./database_uri.ts";
import { hostName, PREFIX, readEnvironment } from "./environment.ts";
import { kekVersionOf, type Settings, settingsSchema } from "./schema.ts";
import { readPrivateFile, readSecretsFile } from "./secrets_file.ts";
import { overlay, type Tree, variableOf } from "./variables.ts";

const DAY_MS = 86_400_000;
const KEK_VARIABLE = "ENCRYPTION_ENV_";

/** Used when neither flag nor environment names a configuration file. */
export const DEFAULT_CONFIG_FILE = "/etc/certautopilot/config.yaml";

/**
 * Reads everything there is: environment over secrets file over config.yaml over defaults.
 * @param configFile the value of `--config`, if given.
 * @throws KekError `config_invalid`, `key_invalid`, `secret_unreadable`, `secrets_file_exposed`, each naming the setting.
 */
export function loadConfig(configFile?: string): Config {
  const environment = readEnvironment();
  const named = configFile ?? environment[`${PREFIX}CONFIG`];
  const file = named ?? (existsSync(DEFAULT_CONFIG_FILE) ? DEFAULT_CONFIG_FILE : undefined);
  const yaml = file === undefined ? {} : readYaml(file);
  if (file !== undefined && holdsSecrets(yaml)) readPrivateFile(file, "configuration file with secrets");
  const secretsPath = environment[`${PREFIX}SECRETS_FILE`] ?? (yaml["secrets_file"] as string | undefined);
  const secrets = secretsPath === undefined ? {} : readSecretsFile(secretsPath);
  // A default that this user may not look at is told where it is missed; a service with variables of its own needs none.
  const located = [environment, secrets].some((given) => given[`${PREFIX}DATABASE_URI`] !== undefined);
  if (file === undefined && !located && denied(DEFAULT_CONFIG_FILE)) readYaml(DEFAULT_CONFIG_FILE);
  return settleConfig(yaml, secrets, environment, file);
}

function denied(path: string): boolean {
  try {
    statSync(path);
    return false;
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === "EACCES";
  }
}

/**
 * The same for what has been read, or is yet to be written. Pure.
 * @param file what errors call the tree; undefined when there is none.
 */
export function settleConfig(
  yaml: Tree,
  secrets: Record<string, string>,
  environment: Record<string, string>,
  file: string | undefined,
): Config {
  for (const name of Object.keys(secrets)) if (name.startsWith(PREFIX) && !IS_SECRET.test(name)) throw noSecret(name);
  const merged = overlay(overlay(yaml, secrets), environment);
  const parsed = v.safeParse(settingsSchema, merged);
  if (!parsed.success) throw invalid(parsed.issues[0]);
  return toConfig(parsed.output, environment, file);
}

/** What a running process may learn again from its secrets file: the declared version. Keys are read by the provider. */
export function declaredVersion(config: Config): number | undefined {
  const name = `${PREFIX}ENCRYPTION_CURRENT_VERSION`;
  if (config.secretsFile === undefined || readEnvironment()[name] !== undefined)
    return config.encryption.currentVersion;
  const declared = readSecretsFile(config.secretsFile)[name];
  return declared !== undefined && /^[1-9]\d{0,9}$/.test(declared)
    ? Number(declared)
    : config.encryption.currentVersion;
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * What a secrets file may hold. The service's user owns that file, and root runs commands that read it: a path, a provider or a
 * library in it would let that user have root write files, or load code.
 */
const IS_SECRET = new RegExp(
  `^${PREFIX}(DATABASE_URI|AUDIT_SECRET|ENCRYPTION_CURRENT_VERSION|ENCRYPTION_ENV_KEK_V\\d+|ENCRYPTION_PKCS11_PIN)$`,
);

function noSecret(name: string): KekError {
  return new KekError(
    "config_invalid",
    `the secrets file sets ${name}, which is not a secret: keys, the declared version, the audit secret, the database's URI and a PIN are`,
    "move that line to config.yaml, or to the environment",
  );
}

function readYaml(path: string): Tree {
  let content: string;
  try {
    content = readFileSync(path, "utf8");
  } catch (thrown) {
    throw new KekError(
      "config_invalid",
      `configuration file ${path} cannot be read (${(thrown as NodeJS.ErrnoException).code ?? messageOf(thrown)})`,
      (thrown as NodeJS.ErrnoException).code === "EACCES"
        ? "run this as root or as the user certautopilot"
        : "name an existing file with --config, or leave --config out and use CERTAUTOPILOT_… variables",
    );
  }
  try {
    const tree: unknown = parseYaml(content, { prettyErrors: false });
    if (tree === null || tree === undefined) return {};
    if (typeof tree === "object" && !Array.isArray(tree)) return tree as Tree;
  } catch {
    // The parser's message may quote the file, which may hold secrets: name the file only.
  }
  throw new KekError("config_invalid", `configuration file ${path} is not a YAML mapping`, "repair the file");
}

/** KEKs, a token's PIN and the audit secret; a URI may hold a password, but often does not, so it asks for nothing. */
function holdsSecrets(yaml: Tree): boolean {
  const { encryption, audit } = yaml as {
    encryption?: { env?: object; pkcs11?: { pin?: unknown } };
    audit?: { secret?: unknown };
  };
  return (
    Object.keys(encryption?.env ?? {}).length > 0 ||
    encryption?.pkcs11?.pin !== undefined ||
    audit?.secret !== undefined
  );
}

function invalid(issue: v.BaseIssue<unknown>): KekError {
  const path = (issue.path ?? []).map((item) => String(item.key));
  const variable = variableOf(path);
  const name = variable === undefined ? path.join(".") : `${variable} (${path.join(".")})`;
  // Valibot's own messages quote the value received, which may be a secret: only ours, which begin with a verb, pass.
  const what = /^(is|must|has) /.test(issue.message)
    ? issue.message
    : issue.type === "strict_object"
      ? "is not a known setting"
      : "is not valid";
  return new KekError("config_invalid", `${name} ${what}`, "see the table of settings in README.md");
}

function toConfig(settings: Settings, environment: Record<string, string>, file: string | undefined): Config {
  const { beat_ms: beatMs, lease_ms: leaseMs, eviction_ms: evictionMs, drain_ms: drainMs } = settings.fleet;
  if (!(2 * beatMs < leaseMs && leaseMs < evictionMs)) {
    throw new KekError(
      "config_invalid",
      `fleet times are unsafe: beat ${beatMs} ms, lease ${leaseMs} ms, eviction ${evictionMs} ms; twice the heartbeat < lease < eviction must hold`,
      "set CERTAUTOPILOT_FLEET_BEAT_MS, _LEASE_MS and _EVICTION_MS so, the same for every process of the fleet",
    );
  }
  if (settings.database.uri === undefined) {
    throw new KekError(
      "config_invalid",
      "CERTAUTOPILOT_DATABASE_URI (database.uri) is not set",
      "set it to the replica set's URI, mongodb://host:27017/?replicaSet=rs0, or name a file with --config",
    );
  }
  checkUri(settings.database.uri);
  const name = settings.database.name ?? databaseOfUri(settings.database.uri) ?? "certautopilot";
  if (!DATABASE_NAME.test(name)) {
    throw new KekError(
      "config_invalid",
      "CERTAUTOPILOT_DATABASE_NAME (database.name) is not the name of a database",
      "use letters, digits, - and _; at most 63 of them",
    );
  }
  return {
    database: { uri: settings.database.uri, name },
    encryption: {
      provider: settings.encryption.provider,
      currentVersion: settings.encryption.current_version,
      env: { keks: keksOf(settings, environment, file) },
      pkcs11: pkcs11Of(settings),
    },
    secretsFile: settings.secrets_file,
    instanceName: settings.instance_name ?? hostName(),
    rotationPeriodMs: settings.encryption.rotation_period * DAY_MS,
    server: { ...settings.server.listen, tls: tlsOf(settings), hosts: settings.server.hosts },
    api: apiOf(settings),
    audit: { secret: settings.audit.secret ?? "", file: settings.audit.file, syslog: syslogOf(settings) },
    fleet: { beatMs, leaseMs, evictionMs, drainMs },
    fields: settings.fields,
  };
}

function tlsOf({ server: { tls_cert_file: certFile, tls_key_file: keyFile } }: Settings): Config["server"]["tls"] {
  if (certFile === undefined && keyFile === undefined) return undefined;
  if (certFile !== undefined && keyFile !== undefined) return { certFile, keyFile };
  throw new KekError(
    "config_invalid",
    "CERTAUTOPILOT_SERVER_TLS_CERT_FILE and CERTAUTOPILOT_SERVER_TLS_KEY_FILE go together, and one is missing",
    "set both, or neither",
  );
}

function apiOf({ api: { token_file: tokenFile, socket } }: Settings): Config["api"] {
  if (tokenFile !== undefined) return { tokenFile, socket };
  if (socket === undefined) return undefined;
  throw new KekError(
    "config_invalid",
    "CERTAUTOPILOT_API_SOCKET (api.socket) is set, and CERTAUTOPILOT_API_TOKEN_FILE is not",
    "the API is on once a file of mode 0600 with its bearer token is named: set both, or neither",
  );
}

function syslogOf({ audit: { syslog, syslog_ca_file: caFile } }: Settings): SyslogTarget | undefined {
  if (caFile !== undefined && syslog?.transport !== "tls") {
    throw new KekError(
      "config_invalid",
      "CERTAUTOPILOT_AUDIT_SYSLOG_CA_FILE (audit.syslog_ca_file) is set, and CERTAUTOPILOT_AUDIT_SYSLOG is not tls://…",
      "send the events to a tls:// address, or leave the file out",
    );
  }
  return syslog === undefined ? undefined : { ...syslog, caFile };
}

function pkcs11Of({ encryption: { pkcs11 } }: Settings): Pkcs11Config {
  return {
    modulePath: pkcs11.module_path,
    tokenLabel: pkcs11.token_label,
    pin: pkcs11.pin,
    pinFile: pkcs11.pin_file,
    sessions: pkcs11.sessions,
    startLimitMs: pkcs11.login_limit_ms,
    callLimitMs: pkcs11.call_limit_ms,
    ownIvs: pkcs11.use_gcm_iv_from_hsm,
    softHsmBackup: pkcs11.softhsm_backup_dir,
  };
}

function keksOf(
  settings: Settings,
  environment: Record<string, string>,
  file: string | undefined,
): Record<number, KekHex> {
  const keks: Record<number, KekHex> = {};
  const add = (key: string, setting: string, hex: string) => {
    const version = kekVersionOf(key);
    if (version === undefined) {
      throw new KekError("config_invalid", `${setting} does not name a version`, "KEKs are named …KEK_V1, …KEK_V2, …");
    }
    keks[version] = { setting, hex };
  };
  for (const [key, hex] of Object.entries(settings.encryption.env)) add(key, `encryption.env.${key} in ${file}`, hex);
  for (const [name, hex] of Object.entries(environment)) {
    if (name.startsWith(PREFIX + KEK_VARIABLE)) add(name.slice((PREFIX + KEK_VARIABLE).length), name, hex);
  }
  return keks;
}
