import { type ConfigChanges, editConfig } from "../config/config_file.ts";
import { KekError } from "../errors/errors.ts";
import type { CurrentState } from "./current_state.ts";
import type { DesiredState } from "./desired_state.ts";
import type { GeneratedSecrets } from "./generated_secrets.ts";
import { LAYOUT, MONGOD, MONGOD_OF_PACKAGES, OLDEST_MONGOD, SERVICE, USER } from "./layout.ts";
import { localUri, mongodConfig, REPLICA_SET } from "./mongod_config.ts";
import type { InstallRequest } from "./request.ts";
import { secretsText } from "./secrets.ts";
import type { Step } from "./step.ts";
import { StepCollector } from "./step_collector.ts";
import { mongodUnit, serviceUnit } from "./units.ts";

/**
 * From what shall be and what is: the steps, in their order. Pure. Keys are on disk before a database knows them, config.yaml
 * comes after the database does, and nothing is started before everything is in place: so whatever was interrupted is
 * finished by the next run.
 */
export function planInstall(
  request: InstallRequest,
  wanted: DesiredState,
  found: CurrentState,
  material: GeneratedSecrets,
): Step[] {
  const plan = new StepCollector(found);
  plan.user();
  plan.directory(LAYOUT.etc, 0o750, "readable");
  plan.directory(LAYOUT.state, 0o750, "service");
  planSecrets({ plan, request, wanted, found, material });
  planLocalMongo({ plan, request, wanted, found, material });
  plan.binary(request.binary, request.version);
  const locked = found.database.seen && found.database.lock !== undefined && found.database.versions.length > 0;
  const assumed = !found.database.seen && found.installed !== undefined && !setUpNeeded(wanted, found);
  plan.add(
    { do: "first_key", provider: wanted.provider },
    FIRST_KEY_TITLE[wanted.provider],
    request.root === "" && !locked && !assumed,
  );
  plan.file(LAYOUT.config, 0o640, "readable", configText(request, wanted, found), {
    title: `configuration ${LAYOUT.config}`,
  });
  if (request.units !== "none") planUnits(plan, request, wanted, found);
  plan.leftovers();
  return plan.steps;
}

/** The address that `/readyz` is asked at, from this host. */
export function readyUrl(listen: string, tls: boolean): string {
  const colon = listen.lastIndexOf(":");
  const host = listen
    .slice(0, colon)
    .replace(/^0\.0\.0\.0$/, "127.0.0.1")
    .replace(/^\[::\]$/, "[::1]");
  return `${tls ? "https" : "http"}://${host}:${listen.slice(colon + 1)}/readyz`;
}

/** Where the service listens after this plan. */
export function listenOf(
  { listen }: Pick<InstallRequest, "listen">,
  { installed }: Pick<CurrentState, "installed">,
): string {
  return listen ?? installed?.listen ?? DEFAULT_LISTEN;
}

// ---------------------------------------------------------------------------------------------------------------------

const DEFAULT_LISTEN = "127.0.0.1:8181";

const FIRST_KEY_TITLE = {
  env: 'lock of the database for provider "env", and KEK version 1 made known',
  pkcs11: 'KEK version 1 made inside the token, and lock of the database for provider "pkcs11"',
};

/** An earlier run wrote the URI into secrets.env when the database was complete. */
export function setUpNeeded(wanted: DesiredState, found: CurrentState): boolean {
  return wanted.mongo.kind === "local" && found.secrets["CERTAUTOPILOT_DATABASE_URI"] === undefined;
}

interface PlanInput {
  plan: StepCollector;
  request: InstallRequest;
  wanted: DesiredState;
  found: CurrentState;
  material: GeneratedSecrets;
}

function planLocalMongo({ plan, request, wanted, found, material }: PlanInput): void {
  if (wanted.mongo.kind !== "local") return;
  const { port, adminPassword } = wanted.mongo;
  const mongod = found.mongod ?? MONGOD_OF_PACKAGES;
  if (found.mongod === undefined) {
    if (found.mongodPackages.length === 0 && request.root === "") throw noMongod(found.packageLists);
    const names = found.mongodPackages;
    plan.add({ do: "packages", names }, `packages of the distribution: ${names.join(" ")}`, names.length > 0);
  }
  const admin = `# The administrator of this host's MongoDB. The service does not read it.\nMONGODB_ADMIN_URI=${localUri(port, "admin", adminPassword)}\n`;
  plan.file(LAYOUT.mongodAdmin, 0o600, "root", admin, {
    title: `MongoDB's administrator ${LAYOUT.mongodAdmin}`,
    asFound: true,
  });
  plan.file(LAYOUT.mongodKeyFile, 0o400, "service", `${material.mongodKeyFile}\n`, {
    title: `MongoDB's key file ${LAYOUT.mongodKeyFile}`,
    asFound: true,
  });
  plan.file(LAYOUT.mongodConfig, 0o640, "readable", mongodConfig(port), {
    title: `MongoDB's configuration ${LAYOUT.mongodConfig} (127.0.0.1:${port})`,
    asFound: true,
  });
  plan.directory(LAYOUT.mongodData, 0o700, "service");
  const database = {
    host: `127.0.0.1:${port}`,
    replicaSet: REPLICA_SET,
    database: wanted.databaseName,
    admin: { name: "admin", password: adminPassword },
    service: { name: USER, password: passwordOf(wanted.uri) },
  };
  plan.add(
    { do: "local_database", database, mongod },
    `MongoDB: replica set "${REPLICA_SET}" of one member, its administrator, and user "${USER}" for database "${wanted.databaseName}"`,
    request.root === "" && setUpNeeded(wanted, found),
  );
  if (request.root !== "" || !setUpNeeded(wanted, found)) return;
  // It also says that the database is complete.
  plan.file(LAYOUT.secrets, 0o600, "service", secretsOf(request, wanted, found, material, wanted.uri), {
    title: `the database's URI in ${LAYOUT.secrets}`,
  });
}

function secretsOf(
  { carried }: InstallRequest,
  { provider }: DesiredState,
  { entries, secrets, installed }: CurrentState,
  material: GeneratedSecrets,
  uri: string | undefined,
): string {
  const isFirst = installed === undefined;
  return secretsText(entries.get(LAYOUT.secrets)?.content, secrets, { provider, uri, carried, isFirst }, material);
}

function passwordOf(uri: string): string {
  return /^mongodb:\/\/[^:]+:([^@]+)@/.exec(uri)?.[1] ?? "";
}

function planSecrets({ plan, request, wanted, found, material }: PlanInput): void {
  const { token } = wanted;
  // A database that is still to be set up comes after its keys, and its URI after it.
  const text = secretsOf(request, wanted, found, material, setUpNeeded(wanted, found) ? undefined : wanted.uri);
  plan.file(LAYOUT.secrets, 0o600, "service", text, { title: `keys ${LAYOUT.secrets}` });
  plan.file(LAYOUT.apiToken, 0o600, "service", `${material.apiToken}\n`, {
    title: `API token ${LAYOUT.apiToken}`,
    asFound: true,
  });
  if (token === undefined) return;
  const pin = found.entries.get(LAYOUT.pin)?.content;
  if (pin !== undefined && token.pin !== undefined && pin.replace(/\r?\n$/, "") !== token.pin) {
    throw new KekError(
      "refused",
      `${LAYOUT.pin} holds another PIN than the one given, and install never changes a secret`,
      `leave it out to keep what is there; or write the new PIN into ${LAYOUT.pin} yourself, and restart the service`,
    );
  }
  plan.file(LAYOUT.pin, 0o600, "service", pin ?? `${token.pin}\n`, {
    title: `PIN of token "${token.label}" ${LAYOUT.pin}`,
  });
}

function configText(request: InstallRequest, wanted: DesiredState, found: CurrentState): string {
  const there = found.entries.get(LAYOUT.config)?.content;
  const changes: ConfigChanges = [
    [["database", "name"], wanted.databaseName],
    [["encryption", "provider"], wanted.provider],
    [["secrets_file"], LAYOUT.secrets],
  ];
  if (wanted.token !== undefined) {
    const { modulePath, label } = wanted.token;
    changes.push(
      [["encryption", "pkcs11", "module_path"], modulePath],
      [["encryption", "pkcs11", "token_label"], label],
    );
    changes.push([["encryption", "pkcs11", "pin_file"], LAYOUT.pin]);
  }
  if (request.instanceName !== undefined) changes.push([["instance_name"], request.instanceName]);
  const listen = request.listen ?? (there === undefined ? DEFAULT_LISTEN : undefined);
  if (listen !== undefined) changes.push([["server", "listen"], listen]);
  if (there === undefined) changes.push([["api", "token_file"], LAYOUT.apiToken]);
  return editConfig(there ?? CONFIG_HEADER, changes);
}

const CONFIG_HEADER = `# Laid down by "certautopilot install". Changes of your own stay: a later run touches what its flags name.
# No secret belongs in here: they are in secrets.env.
`;

function planUnits(plan: StepCollector, request: InstallRequest, wanted: DesiredState, found: CurrentState): void {
  const local = wanted.mongo.kind === "local";
  const token = wanted.token && { stateDirectory: wanted.token.stateDirectory, group: found.tokenGroup };
  const units = [...(local ? [MONGOD] : []), SERVICE];
  const changedBefore = plan.changed([LAYOUT.secrets, LAYOUT.apiToken, LAYOUT.pin, LAYOUT.config, LAYOUT.binary]);
  if (local)
    plan.file(LAYOUT.mongodUnit, 0o644, "root", mongodUnit(found.mongod ?? MONGOD_OF_PACKAGES, found), {
      title: `unit ${LAYOUT.mongodUnit}`,
    });
  plan.file(LAYOUT.serviceUnit, 0o644, "root", serviceUnit({ localMongo: local, token }, found), {
    title: `unit ${LAYOUT.serviceUnit}`,
  });
  const unitsChanged = { service: plan.changed([LAYOUT.serviceUnit]), mongod: plan.changed([LAYOUT.mongodUnit]) };
  if (request.units === "started")
    plan.add({ do: "reload" }, "systemd reads the units again", unitsChanged.service || unitsChanged.mongod);
  for (const unit of units) {
    plan.add({ do: "enable", unit }, `${unit} starts with the host`, !stateOf(found, unit).enabled);
  }
  if (request.units !== "started") return;
  const mongodRestart = unitsChanged.mongod || plan.changed([LAYOUT.mongodConfig, LAYOUT.mongodKeyFile]);
  const serviceRestart = unitsChanged.service || changedBefore;
  for (const unit of units) {
    const { active } = stateOf(found, unit);
    const restart = active && (unit === MONGOD ? mongodRestart : serviceRestart);
    const change = !active || restart;
    plan.add({ do: "start", unit, restart }, `${unit} ${restart ? "restarted" : "started"}`, change);
    if (unit === MONGOD && wanted.mongo.kind === "local") {
      const address = `127.0.0.1:${wanted.mongo.port}`;
      plan.add({ do: "listening", unit, address }, `MongoDB listens on ${address}`, change);
    }
  }
  const tls = found.installed?.tls === true;
  const url = readyUrl(listenOf(request, found), tls);
  const started = plan.steps.some((step) => step.do === "start" && step.unit === SERVICE && step.change);
  plan.add({ do: "ready", unit: SERVICE, url }, `ready: ${url} answers 200`, started);
}

const stateOf = ({ units }: CurrentState, unit: string) => (unit === MONGOD ? units.mongod : units.service);

function noMongod(packageLists: boolean): KekError {
  const add = `add MongoDB's repository (https://www.mongodb.com/docs/manual/administration/install-on-linux/) and run this again, or name a mongod ${OLDEST_MONGOD} or newer with --mongod=PATH`;
  return new KekError(
    "mongodb_unavailable",
    `--mongo=local needs a mongod: there is none on PATH, and no configured package repository has one of version ${OLDEST_MONGOD} or newer`,
    packageLists ? add : `this host has no lists of packages: run apt-get update first; then, if need be, ${add}`,
  );
}
