import { accessSync, constants, existsSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { mongodHints } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";
import { must, run } from "./command.ts";
import type { InstallRequest } from "./request.ts";
import { mongodIn } from "./units.ts";

/** Which mongod a local MongoDB is run by: the one named, the one installed, PATH's, or the distribution's packages. */

const OLDEST = 6;
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
    if (policies.every(({ stdout }) => /^ {2}Candidate: \d/m.test(stdout))) return [...names];
  }
  return [];
}

export async function installPackages(names: string[]): Promise<void> {
  await must(["apt-get", "install", "--yes", "--no-install-recommends", ...names], { limitMs: 600_000 });
}

// ---------------------------------------------------------------------------------------------------------------------

async function usable(path: string, from: string): Promise<string> {
  const unusable = (why: string, hint: string) => new KekError("usage", `mongod ${path} (${from}) ${why}`, hint);
  let real: string;
  try {
    real = realpathSync(path);
    accessSync(real, constants.X_OK);
  } catch {
    throw unusable("cannot be run", "name a mongod 6 or newer with --mongod=PATH");
  }
  if (/^\/(root|home|run\/user)\//.test(real))
    throw unusable(
      "is in a home directory, which the service must not see",
      `copy it: install -m 0755 ${real} /usr/local/bin/mongod`,
    );
  const { stdout } = await run([real, "--version"], { limitMs: 20_000 });
  const major = Number(/^db version v(\d+)\./m.exec(stdout)?.[1] ?? Number.NaN);
  if (Number.isNaN(major)) throw unusable("does not run here", `see what it says: ${real} --version`);
  if (major < OLDEST) throw unusable(`is version ${major}`, `version ${OLDEST} or newer is needed`);
  return real;
}
