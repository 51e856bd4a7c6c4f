import { accessSync, constants, existsSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { childEnvironment, mongodHints } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";
import { must, run } from "./command.ts";
import { OLDEST_MONGOD } from "./layout.ts";
import type { InstallRequest } from "./request.ts";
import { mongodIn } from "./units.ts";

/** Which mongod a local MongoDB is run by: the one named, the one installed, PATH's, or the distribution's packages. */

const PACKAGES = [["mongodb-org-server", "mongodb-mongosh"], ["mongodb-org-server"], ["mongodb-server"]] as const;

/** @returns undefined when there is none. @throws KekError `usage` when the one that is named cannot be used. */
export async function findMongod(
  { mongod, root }: InstallRequest,
  unit: string | undefined,
): Promise<string | undefined> {
  if (root !== "") return mongod ?? mongodIn(unit);
  if (mongod !== undefined) return await usable(mongod, "--mongod");
  const installed = mongodIn(unit);
  if (installed !== undefined) return await usable(installed, "the installed unit");
  const { binary, path } = mongodHints();
  const found = binary ?? path.map((directory) => join(directory, "mongod")).find((candidate) => existsSync(candidate));
  return found === undefined ? undefined : await usable(found, "PATH");
}

/** What the host's own repositories have to offer, the best first. Nothing is fetched. */
export async function packagesOfMongodb(): Promise<string[]> {
  for (const names of PACKAGES) {
    const policies = await Promise.all(names.map((name) => run(["apt-cache", "policy", name])));
    const [server, ...others] = policies.map(({ stdout }) => candidateOf(stdout));
    if (server !== undefined && majorOf(server) >= OLDEST_MONGOD && others.every(Boolean)) return [...names];
  }
  return [];
}

/** Whether the package manager has lists of packages: false on a fresh image of Debian, true where there is no apt. */
export function hasPackageLists(): boolean {
  const lists = "/var/lib/apt/lists";
  if (!existsSync("/usr/bin/apt-get")) return true;
  return existsSync(lists) && readdirSync(lists).some((name) => name.includes("_Packages"));
}

export async function installPackages(names: string[]): Promise<void> {
  const wait = ["-o", "DPkg::Lock::Timeout=300"];
  const env = childEnvironment({ DEBIAN_FRONTEND: "noninteractive" });
  await must(["apt-get", "install", "--yes", "--no-install-recommends", ...wait, ...names], { env, limitMs: 900_000 });
}

/** Those of these packages that are installed now. */
export async function installedPackages(names: string[]): Promise<string[]> {
  const { stdout } = await run(["dpkg-query", "--list", ...names]);
  return [...stdout.matchAll(/^ii +([^\s:]+)/gm)].map(([, name = ""]) => name);
}

// ---------------------------------------------------------------------------------------------------------------------

/** @param policy what `apt-cache policy` prints; a package that cannot be had has the candidate `(none)`. */
function candidateOf(policy: string): string | undefined {
  return /^ {2}Candidate: (\d\S*)$/m.exec(policy)?.[1];
}

/** Of a Debian version, as `1:3.6.3-0ubuntu1`: what comes before the first dot, after the epoch. */
function majorOf(version: string): number {
  return Number(/^(?:\d+:)?(\d+)/.exec(version)?.[1] ?? 0);
}

async function usable(path: string, from: string): Promise<string> {
  const unusable = (why: string, hint: string) => new KekError("usage", `mongod ${path} (${from}) ${why}`, hint);
  let real: string;
  try {
    real = realpathSync(path);
    accessSync(real, constants.X_OK);
  } catch {
    throw unusable("cannot be run", `name a mongod ${OLDEST_MONGOD} or newer with --mongod=PATH`);
  }
  const { stdout } = await run([real, "--version"], { limitMs: 20_000 });
  const major = Number(/^db version v(\d+)\./m.exec(stdout)?.[1] ?? Number.NaN);
  if (Number.isNaN(major)) throw unusable("does not run here", `see what it says: ${real} --version`);
  if (major < OLDEST_MONGOD) throw unusable(`is version ${major}`, `version ${OLDEST_MONGOD} or newer is needed`);
  return real;
}
