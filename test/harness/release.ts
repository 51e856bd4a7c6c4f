import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "../..");

/** The release file that install.sh takes on this machine. */
export const TARGET_HERE = /\bavx2\b/.test(readFileSync("/proc/cpuinfo", "utf8")) ? "linux-x64" : "linux-x64-baseline";

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
