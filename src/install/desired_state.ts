import type { ProviderName } from "../config/config.ts";
import { databaseOfUri } from "../config/database_uri.ts";
import { KekError } from "../errors/errors.ts";
import { checkLock } from "../providers/registry.ts";
import type { CurrentState } from "./current_state.ts";
import type { GeneratedSecrets } from "./generated_secrets.ts";
import { DEFAULT_DATABASE, LAYOUT, MONGOD, SERVICE, USER } from "./layout.ts";
import { DEFAULT_MONGO_PORT, localUri, portOf } from "./mongod_config.ts";
import type { InstallRequest } from "./request.ts";
import { HELD_BY_HOSTS, holdsKeys, missingSecrets } from "./secrets.ts";
import { stateDirectoryIn } from "./units.ts";

/** What the host shall be: what was asked for, over what is installed, over defaults. Pure; every refusal is here. */
export interface DesiredState {
  provider: ProviderName;
  /** Of keys in a token. */
  token: DesiredToken | undefined;
  mongo: { kind: "local"; port: number; adminPassword: string } | { kind: "external" };
  uri: string;
  databaseName: string;
}

export interface DesiredToken {
  modulePath: string;
  label: string;
  /** Undefined where it is on the host already. */
  pin: string | undefined;
  stateDirectory: string | undefined;
}

/** @throws KekError `usage`, `provider_mismatch`, `refused`: what contradicts the host, or is missing. */
export function desiredStateOf(request: InstallRequest, found: CurrentState, material: GeneratedSecrets): DesiredState {
  const provider = settleProvider(request, found);
  const mongo = settleMongo(request, found, material);
  const databaseName = settleDatabaseName(request, found);
  const uri = mongo.kind === "local" ? localUriOf(mongo.port, found, material) : externalUri(request, found);
  refuseLostKeys(request, found, provider, mongo.kind);
  refuseForeignKeys(request, found, provider);
  return { provider, token: TOKEN_OF[provider](request, found), mongo, uri, databaseName };
}

// ---------------------------------------------------------------------------------------------------------------------

function settleProvider({ provider }: InstallRequest, { installed, database }: CurrentState): ProviderName {
  const wanted = provider ?? installed?.provider ?? (database.seen ? database.lock?.provider : undefined) ?? "env";
  if (database.seen && database.lock !== undefined) checkLock(database.lock, wanted);
  if (installed !== undefined && installed.provider !== wanted) {
    throw new KekError(
      "provider_mismatch",
      `KEK provider mismatch: installed="${installed.provider}" (${LAYOUT.config}) but --kek-provider says "${wanted}". Provider is immutable after install.`,
      "leave the flag out; to move to another provider, install again against a fresh database and bring the secrets over (certautopilot export, import)",
    );
  }
  return wanted;
}

/** A flag that says where the database is, against where it is. */
function settleMongo(request: InstallRequest, found: CurrentState, material: GeneratedSecrets): DesiredState["mongo"] {
  const here = found.entries.get(LAYOUT.mongodConfig);
  const isLocal = here !== undefined;
  const isExternal = !isLocal && found.secrets["CERTAUTOPILOT_DATABASE_URI"] !== undefined;
  const kind = request.mongo ?? (isLocal ? "local" : isExternal ? "external" : undefined);
  if (kind === undefined) {
    throw new KekError(
      "usage",
      "--mongo is missing: where is the database to be?",
      "--mongo=local sets a MongoDB up on this host, --mongo=external --mongo-uri-file=FILE uses one that is there",
    );
  }
  if (kind === "external" && isLocal) {
    throw new KekError(
      "refused",
      "this host was installed with --mongo=local, and --mongo=external would leave its secrets behind",
      "add members to its replica set instead; or export, uninstall, install again with --mongo=external, and import",
    );
  }
  if (kind === "local" && isExternal) {
    throw new KekError(
      "refused",
      "this host was installed with --mongo=external, and --mongo=local would begin with an empty database",
      "leave --mongo out; or export, uninstall, install again with --mongo=local, and import",
    );
  }
  if (kind === "external") {
    for (const [flag, value] of Object.entries({ "--mongod": request.mongod, "--mongo-port": request.mongoPort }))
      if (value !== undefined) throw new KekError("usage", `${flag} is for --mongo=local`, "leave it out");
    return { kind };
  }
  if (request.uri !== undefined) {
    throw new KekError(
      "usage",
      "a MongoDB URI was given together with --mongo=local, which makes its own",
      "leave the URI out (flag, file, CERTAUTOPILOT_DATABASE_URI), or use --mongo=external",
    );
  }
  const port = here === undefined ? DEFAULT_MONGO_PORT : portOf(here.content ?? "");
  if (port === undefined)
    throw new KekError(
      "refused",
      `${LAYOUT.mongodConfig} names no port, and this host's service finds its MongoDB by it`,
      "write it there as install did, below net: as in   port: 27017",
    );
  if (here !== undefined && request.mongoPort !== undefined && request.mongoPort !== port) {
    throw new KekError(
      "refused",
      `the MongoDB of this host listens on port ${port}, and its replica set is known by it`,
      "leave --mongo-port out",
    );
  }
  return { kind, port: request.mongoPort ?? port, adminPassword: adminPassword(found) ?? material.mongodAdminPassword };
}

/** As install or the administrator wrote it. */
function adminPassword(found: CurrentState): string | undefined {
  const text = found.entries.get(LAYOUT.mongodAdmin)?.content ?? "";
  const escaped = /^MONGODB_ADMIN_URI=mongodb:\/\/[^:@/]+:([^@/]+)@/m.exec(text)?.[1];
  return escaped === undefined ? undefined : decodeURIComponent(escaped);
}

function localUriOf(port: number, found: CurrentState, material: GeneratedSecrets): string {
  return found.secrets["CERTAUTOPILOT_DATABASE_URI"] ?? localUri(port, USER, material.mongodPassword);
}

function externalUri({ uri, carried }: InstallRequest, found: CurrentState): string {
  const given = uri ?? found.secrets["CERTAUTOPILOT_DATABASE_URI"] ?? carried?.["CERTAUTOPILOT_DATABASE_URI"];
  if (given !== undefined) return given;
  throw new KekError(
    "usage",
    "--mongo=external needs the URI of the database",
    "name a file of mode 0600 that holds it with --mongo-uri-file=FILE, or set CERTAUTOPILOT_DATABASE_URI",
  );
}

function settleDatabaseName({ databaseName, uri, carried }: InstallRequest, { installed }: CurrentState): string {
  const there = installed?.databaseName;
  if (there !== undefined && databaseName !== undefined && databaseName !== there) {
    throw new KekError(
      "refused",
      `this host's install is database "${there}", and --mongo-database says "${databaseName}"`,
      "leave the flag out; a host belongs to one install",
    );
  }
  const given = uri ?? carried?.["CERTAUTOPILOT_DATABASE_URI"];
  return there ?? databaseName ?? (given && databaseOfUri(given)) ?? DEFAULT_DATABASE;
}

/**
 * Keys are on disk before any data is. So where this host has a configuration, or a MongoDB with data, without keys, they are
 * lost or somewhere else: new ones would not open that data, and a new password would lock the old service out.
 */
function refuseLostKeys(
  { carried }: InstallRequest,
  { installed, mongodHasData, secrets, entries }: CurrentState,
  provider: ProviderName,
  mongo: "local" | "external",
): void {
  const trace = mongodHasData ? LAYOUT.mongodData : installed === undefined ? undefined : LAYOUT.config;
  if (trace === undefined) return;
  const missing = missingSecrets({ ...carried, ...secrets }, provider);
  if (missing.length > 0) {
    const or = {
      local: `To give up the data instead: systemctl stop ${SERVICE} ${MONGOD}, then move ${LAYOUT.etc} and ${LAYOUT.state} away`,
      external: "Or name a copy of another host of the fleet with --secrets-from=FILE",
    };
    const what = entries.has(LAYOUT.secrets) ? `has no ${missing.join(" and no ")}` : "is gone";
    throw new KekError(
      "refused",
      `this host has ${trace} of an earlier install, and ${LAYOUT.secrets} ${what}: new keys would not open its secrets`,
      `put your copy of the file back (mode 0600, owner ${USER}), then run this again. ${or[mongo]}`,
    );
  }
  const isSetUp = secrets["CERTAUTOPILOT_DATABASE_URI"] !== undefined;
  if (mongo === "local" && mongodHasData && isSetUp && !entries.has(LAYOUT.mongodAdmin))
    throw new KekError(
      "refused",
      `this host's MongoDB has an administrator, and ${LAYOUT.mongodAdmin} with the password is gone`,
      "put your copy of the file back (mode 0600, owner root), then run this again",
    );
}

/** A database that is locked has its keys somewhere: new ones would be others. */
function refuseForeignKeys(
  { carried }: InstallRequest,
  { database, secrets }: CurrentState,
  provider: ProviderName,
): void {
  if (!database.seen || database.lock === undefined || !HELD_BY_HOSTS[provider]) return;
  if (holdsKeys(secrets) || (carried !== undefined && holdsKeys(carried))) return;
  throw new KekError(
    "refused",
    "this database belongs to an install that has its keys already, and this host has none of them",
    "copy /etc/certautopilot/secrets.env of a host of that fleet to a file of mode 0600 here, and name it with --secrets-from=FILE",
  );
}

const TOKEN_OF: Record<ProviderName, (request: InstallRequest, found: CurrentState) => DesiredToken | undefined> = {
  env: ({ token }) => {
    const given = Object.values(token).some((value) => value !== undefined);
    if (given)
      throw new KekError("usage", "--pkcs11-… flags are for --kek-provider=pkcs11", "add it, or leave them out");
    return undefined;
  },
  pkcs11: ({ token }, { installed, entries }) => {
    const modulePath = token.modulePath ?? installed?.modulePath;
    const label = token.label ?? installed?.tokenLabel;
    const missing = (flag: string, what: string) =>
      new KekError("usage", `--kek-provider=pkcs11 needs ${flag}`, `give ${what}: see docs/hsm`);
    if (modulePath === undefined) throw missing("--pkcs11-module=PATH", "the vendor's PKCS#11 library (.so)");
    if (label === undefined) throw missing("--pkcs11-token-label=LABEL", "the label of the token to use");
    if (token.pin === undefined && !entries.has(LAYOUT.pin))
      throw missing("a PIN", "--pkcs11-pin-file=FILE of mode 0600, or CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN");
    return {
      modulePath,
      label,
      pin: token.pin,
      stateDirectory: token.stateDirectory ?? stateDirectoryIn(entries.get(LAYOUT.serviceUnit)?.content),
    };
  },
};
