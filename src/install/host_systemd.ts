import { existsSync, readdirSync, readFileSync } from "node:fs";
import { run } from "./command.ts";
import type { Systemd } from "./current_state.ts";

/** What the systemd of a host can do: of this host, or of the one below another root. */

const LIBRARIES = ["/usr/lib/systemd", "/lib/systemd", "/usr/lib64/systemd"];

export async function hostSystemd(root: string): Promise<Systemd> {
  return { version: root === "" ? await runningVersion() : laidVersion(root), userNamespaces: hasUserNamespaces(root) };
}

// ---------------------------------------------------------------------------------------------------------------------

async function runningVersion(): Promise<number | undefined> {
  const { stdout } = await run(["systemctl", "--version"]);
  const version = /^systemd (\d+)/m.exec(stdout)?.[1];
  return version === undefined ? undefined : Number(version);
}

/** systemd's own library has its version in its name. Nothing below another root is run. */
function laidVersion(root: string): number | undefined {
  for (const directory of LIBRARIES.map((path) => `${root}${path}`).filter(existsSync))
    for (const name of readdirSync(directory)) {
      const version = /^libsystemd-shared-(\d+)/.exec(name)?.[1];
      if (version !== undefined) return Number(version);
    }
  return undefined;
}

/** Hardened hosts set the limit to 0 (for example by the STIG of RHEL). Another root's kernel is not known. */
function hasUserNamespaces(root: string): boolean {
  const limit = "/proc/sys/user/max_user_namespaces";
  return root !== "" || !existsSync(limit) || readFileSync(limit, "utf8").trim() !== "0";
}
