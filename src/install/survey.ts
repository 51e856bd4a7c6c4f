import { createHash } from "node:crypto";
import { createReadStream, lstatSync, readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { readConfigText } from "../config/config_file.ts";
import { checkUri, databaseOfUri } from "../config/database_uri.ts";
import { settleConfig } from "../config/load.ts";
import { parseSecrets } from "../config/secrets_file.ts";
import { KekError } from "../errors/errors.ts";
import { readInstall } from "../store/install.ts";
import { explainMongo } from "../store/mongodb_errors.ts";
import { closeStore, openStore } from "../store/store.ts";
import { saysNotInitiated } from "../store/topology.ts";
import { checkRights } from "../store/user_rights.ts";
import { readVersions } from "../store/versions.ts";
import { run } from "./command.ts";
import type { CurrentDatabase, CurrentState, Entry, Installed, UnitState } from "./current_state.ts";
import { findMongod, hasPackageLists, packagesOfMongodb } from "./find_mongod.ts";
import { hostSystemd } from "./host_systemd.ts";
import { besideNames, DEFAULT_DATABASE, LAYOUT, MONGOD, SERVICE, STAGED_UPDATE, USER, wantsLink } from "./layout.ts";
import { readyUrl } from "./plan.ts";
import type { InstallRequest } from "./request.ts";
import { findUser, groupName, groupOf, ownAccounts } from "./system_user.ts";
import { unitState } from "./systemd.ts";
import { stateDirectoryIn } from "./units.ts";

/** Looks at the host, and at the database where it can be reached. Nothing is written. */
export async function survey(request: InstallRequest): Promise<CurrentState> {
  const { root } = request;
  const entries = readEntries(root);
  const secretsText = entries.get(LAYOUT.secrets)?.content;
  const secrets = secretsText === undefined ? {} : parseSecrets(secretsText, LAYOUT.secrets);
  const configText = entries.get(LAYOUT.config)?.content;
  const installed = configText === undefined ? undefined : installedBy(configText, secrets);
  const privileged = process.getuid?.() === 0;
  const stateDirectory = request.token.stateDirectory ?? stateDirectoryIn(entries.get(LAYOUT.serviceUnit)?.content);
  const isLocal = request.mongo === "local" || entries.has(LAYOUT.mongodConfig);
  const mongod = isLocal ? await findMongod(request, entries.get(LAYOUT.mongodUnit)?.content) : undefined;
  const started = request.units === "started";
  const isDirectory = (path: string) => entries.get(path)?.kind === "directory";
  const user = await findUser(root);
  if (user?.uid === 0) throw userIsRoot();
  return {
    user,
    group: user === undefined ? USER : groupName(root, user.gid),
    userIsOurs: ownAccounts(root).user,
    systemd: await hostSystemd(root),
    privileged,
    mayMakeUser: privileged && lstatSync(`${root}/etc/passwd`, { throwIfNoEntry: false }) !== undefined,
    entries,
    secrets,
    installed,
    binaryIsThis: await sameFile(`${root}${LAYOUT.binary}`, request.binary),
    installedVersion: root === "" && entries.has(LAYOUT.binary) ? await versionOf(LAYOUT.binary) : undefined,
    mongodHasData: isDirectory(LAYOUT.mongodData) && readdirSync(`${root}${LAYOUT.mongodData}`).length > 0,
    units: {
      service: started ? await unitState(SERVICE) : laidState(entries, SERVICE),
      mongod: started ? await unitState(MONGOD) : laidState(entries, MONGOD),
    },
    mongod,
    mongodPackages: isLocal && mongod === undefined && root === "" ? await packagesOfMongodb() : [],
    packageLists: hasPackageLists(),
    tokenGroup: stateDirectory === undefined ? undefined : await groupOf(root, stateDirectory),
    database: root === "" ? await lookAtDatabase(request, secrets, installed, isLocal) : { seen: false },
  };
}

export async function digestOfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

/** Where `/readyz` of the installed service is asked. @throws KekError `not_installed`. */
export function installedReadyUrl(): string {
  const entries = readEntries("");
  const text = entries.get(LAYOUT.config)?.content;
  if (text === undefined)
    throw new KekError(
      "not_installed",
      `there is no ${LAYOUT.config}: nothing is installed here`,
      "begin with: certautopilot install",
    );
  const { listen, tls } = installedBy(text, {});
  return readyUrl(listen, tls);
}

// ---------------------------------------------------------------------------------------------------------------------

const TEXTS: string[] = [
  LAYOUT.config,
  LAYOUT.secrets,
  LAYOUT.apiToken,
  LAYOUT.pin,
  LAYOUT.mongodConfig,
  LAYOUT.mongodKeyFile,
  LAYOUT.mongodAdmin,
  LAYOUT.serviceUnit,
  LAYOUT.mongodUnit,
];

function readEntries(root: string): Map<string, Entry> {
  try {
    return entriesBelow(root);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== "EACCES") throw thrown;
    throw new KekError("usage", `what is installed below ${root || "/"} can be seen by root only`, "run it with sudo");
  }
}

function entriesBelow(root: string): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  const places = Object.values(LAYOUT).flatMap((path) => [path, ...Object.values(besideNames(path))]);
  for (const path of [...places, STAGED_UPDATE, wantsLink(SERVICE), wantsLink(MONGOD)]) {
    const status = lstatSync(`${root}${path}`, { throwIfNoEntry: false });
    if (status === undefined) continue;
    const kind = status.isFile() ? "file" : status.isDirectory() ? "directory" : "other";
    if (TEXTS.includes(path) && kind !== "file") throw notAFile(path);
    const content = TEXTS.includes(path) ? readFileSync(`${root}${path}`, "utf8") : undefined;
    entries.set(path, { kind, mode: status.mode & 0o7777, uid: status.uid, gid: status.gid, content });
  }
  return entries;
}

function userIsRoot(): KekError {
  return new KekError(
    "refused",
    `the user ${USER} of this host is root by another name (uid 0), and the service must not be`,
    `give it a uid of its own, or remove it: install makes the user that it needs`,
  );
}

/** A link is not followed, and not replaced either: keys may be behind it. */
function notAFile(path: string): KekError {
  return new KekError(
    "refused",
    `${path} is no plain file, and install neither follows nor replaces it`,
    "put the file itself there, with its owner and mode 0600, or move it away",
  );
}

function laidState(entries: Map<string, Entry>, unit: string): UnitState {
  return { enabled: entries.has(wantsLink(unit)), active: false };
}

function installedBy(text: string, secrets: Record<string, string>): Installed {
  // An interrupted run may not have come to the URI, and the rest does not hang on it.
  const uri = "mongodb://127.0.0.1/";
  const config = settleConfig(readConfigText(text), { CERTAUTOPILOT_DATABASE_URI: uri, ...secrets }, {}, LAYOUT.config);
  const { encryption, database, server } = config;
  return {
    provider: encryption.provider,
    databaseName: database.name,
    listen: `${server.host.includes(":") ? `[${server.host}]` : server.host}:${server.port}`,
    tls: server.tls !== undefined,
    modulePath: encryption.pkcs11?.modulePath,
    tokenLabel: encryption.pkcs11?.tokenLabel,
  };
}

async function sameFile(path: string, other: string): Promise<boolean> {
  const [one, two] = [path, other].map((file) => lstatSync(file, { throwIfNoEntry: false }));
  if (one === undefined || two === undefined || !one.isFile() || one.size !== two.size) return false;
  return (one.ino === two.ino && one.dev === two.dev) || (await digestOfFile(path)) === (await digestOfFile(other));
}

/** @returns undefined when it does not run, as after a copy that broke off. */
export async function versionOf(program: string): Promise<string | undefined> {
  const { code, stdout } = await run([program, "--version"], { limitMs: 20_000 });
  return code === 0 ? stdout.trim() : undefined;
}

/** A mongod of this host's own may be down; an external one must answer, and let the service do its work. */
async function lookAtDatabase(
  { uri: given, carried, databaseName }: InstallRequest,
  secrets: Record<string, string>,
  installed: Installed | undefined,
  isLocal: boolean,
): Promise<CurrentDatabase> {
  const name = "CERTAUTOPILOT_DATABASE_URI";
  const uri = secrets[name] ?? given ?? (isLocal ? undefined : carried?.[name]);
  if (uri === undefined) return { seen: false };
  checkUri(uri);
  const database = { uri, name: installed?.databaseName ?? databaseName ?? databaseOfUri(uri) ?? DEFAULT_DATABASE };
  try {
    const store = await openStore(database, {
      appName: "certautopilot install",
      ...(isLocal ? { selectionMs: 1000 } : {}),
    });
    try {
      const { fence } = await checkRights(store, uri);
      const lock = await readInstall(store);
      const versions = await readVersions(store);
      return {
        seen: true,
        fence,
        lock: lock && { provider: lock.provider, lockedAt: lock.locked_at, installId: lock.install_id },
        versions,
      };
    } finally {
      await closeStore(store);
    }
  } catch (thrown) {
    const error = explainMongo(thrown, uri);
    // A run that was interrupted before it initiated the replica set continues from there.
    if (isLocal && (error?.code === "mongodb_unavailable" || saysNotInitiated(error))) return { seen: false };
    throw error ?? thrown;
  }
}
