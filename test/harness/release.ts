import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Host } from "./host.ts";

const ROOT = join(import.meta.dir, "../..");

/** The release file that install.sh takes on this machine. */
export const TARGET_HERE = /\bavx2\b/.test(readFileSync("/proc/cpuinfo", "utf8")) ? "linux-x64" : "linux-x64-baseline";

/**
 * A release with at least these targets: the one that ./scripts/test made before all tests, or one made in `out`.
 * @returns `v<version>`'s path.
 */
export async function releaseWith(out: string, targets: string[]): Promise<string> {
  return process.env["CERTAUTOPILOT_TEST_RELEASE"] ?? (await buildRelease(out, targets));
}

/** Builds release files (all, when none is named) as ./scripts/release does, which also tries each. @returns `<out>/v<version>`. */
export async function buildRelease(out: string, targets: string[], checkout = ROOT): Promise<string> {
  const child = spawn(
    join(checkout, "scripts/release"),
    [`--out=${out}`, ...targets.map((target) => `--target=${target}`)],
    {
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`scripts/release ended with ${code}\n${stderr}`);
  return stdout.trim();
}

/** The files that install.sh asks for on this machine, in `/opt/releases` of a host. */
export function layOnHost(host: Host, release: string): void {
  const directory = host.path(`/opt/releases/${basename(release)}`);
  mkdirSync(directory, { recursive: true });
  for (const name of ["SHA256SUMS", `certautopilot-${TARGET_HERE}`]) cpSync(join(release, name), join(directory, name));
}
