import { existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname } from "node:path";

/** The file systems that are mounted on this host (proc(5), /proc/self/mountinfo). */
export interface Mount {
  path: string;
  noexec: boolean;
  readOnly: boolean;
}

export function readMounts(): Mount[] {
  const file = "/proc/self/mountinfo";
  return existsSync(file) ? parseMounts(readFileSync(file, "utf8")) : [];
}

/** @param text of mountinfo; the newest mount of a path comes last. */
export function parseMounts(text: string): Mount[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [, , , , path = "", options = "", ...rest] = line.split(" ");
      // Behind the dash come type, source and the options of the file system itself, read-only for all its mounts.
      const ofFileSystem = rest.at(-1) ?? "";
      const has = (name: string) => options.split(",").includes(name);
      return {
        path: unescaped(path),
        noexec: has("noexec"),
        readOnly: has("ro") || ofFileSystem.split(",").includes("ro"),
      };
    });
}

/** The mount that a path is in. @param path need not be there: then it is of the directory above that is. */
export function mountOf(path: string, mounts: Mount[]): Mount | undefined {
  const real = realpathSync(nearest(path));
  return mounts
    .filter((mount) => mount.path === "/" || real === mount.path || real.startsWith(`${mount.path}/`))
    .reduce<Mount | undefined>(
      (longest, mount) => (longest === undefined || mount.path.length >= longest.path.length ? mount : longest),
      undefined,
    );
}

/** Mounts at a path and below it, the deepest first. */
export function mountsBelow(path: string, mounts: Mount[]): Mount[] {
  return mounts
    .filter((mount) => mount.path === path || mount.path.startsWith(`${path}/`))
    .sort((a, b) => b.path.length - a.path.length);
}

/** A path, or the closest directory above it that exists. */
export function nearest(path: string): string {
  return existsSync(path) ? path : nearest(dirname(path));
}

// ---------------------------------------------------------------------------------------------------------------------

/** Blanks and backslashes in a path are octal numbers. */
function unescaped(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
