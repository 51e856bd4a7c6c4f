import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { softHsmConfiguration } from "../../config/environment.ts";

/**
 * SoftHSM 2.6.1 writes `token.object` again at each C_Login, in place. A process that is killed at that moment leaves it empty,
 * and SoftHSM then shows no such token. Its keys are in other files, and whole.
 */

const DEFAULT_CONFIGURATION = "/etc/softhsm2.conf";
const DEBIAN_CONFIGURATION = "/etc/softhsm/softhsm2.conf";

/** Files of SoftHSM tokens that are empty, by path. @param modulePath of the PKCS#11 library that is in use. */
export function emptyTokenFiles(modulePath: string): string[] {
  return tokenFiles(modulePath).filter((path) => statSync(path, { throwIfNoEntry: false })?.size === 0);
}

/** The `token.object` of each token of SoftHSM; none when another module is in use. */
export function tokenFiles(modulePath: string): string[] {
  const named = softHsmConfiguration();
  if (named === undefined && !/softhsm/i.test(modulePath)) return [];
  const file = [named, DEBIAN_CONFIGURATION, DEFAULT_CONFIGURATION].find(
    (path) => path !== undefined && existsSync(path),
  );
  if (file === undefined) return [];
  const directory = /^\s*directories\.tokendir\s*=\s*(\S+)/m.exec(readFileSync(file, "utf8"))?.[1];
  if (directory === undefined || !existsSync(directory)) return [];
  return readdirSync(directory)
    .map((token) => join(directory, token, "token.object"))
    .filter((path) => existsSync(path));
}
