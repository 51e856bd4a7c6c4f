import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const INSTALL_SH = join(import.meta.dir, "../../install.sh");

/** The version that install.sh was written for. */
export const RELEASED = /^VERSION=(.*)$/m.exec(readFileSync(INSTALL_SH, "utf8"))?.[1] ?? "";

/** Lays files down as a release has them: `<base>/v<version>/` with SHA256SUMS. @returns that directory. */
export function layRelease(base: string, files: Record<string, string>, version = RELEASED): string {
  const directory = join(base, `v${version}`);
  mkdirSync(directory, { recursive: true });
  const sums = Object.entries(files).map(([name, content]) => {
    writeFileSync(join(directory, name), content);
    chmodSync(join(directory, name), 0o755);
    return `${createHash("sha256").update(content).digest("hex")}  ${name}\n`;
  });
  writeFileSync(join(directory, "SHA256SUMS"), sums.join(""));
  return directory;
}
