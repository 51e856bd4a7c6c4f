import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

const BALLAST = "ballast";
const CHUNK = Buffer.alloc(1024 * 1024);

/** A small disk in memory, that can be filled and freed. Needs the right to mount. */
export class Volume {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** @returns undefined where this user may not mount. */
  static mount(directory: string, megabytes: number): Volume | undefined {
    const options = ["-t", "tmpfs", "-o", `size=${megabytes}m`, "certautopilot-torture", directory];
    return spawnSync("mount", options, { stdio: "ignore" }).status === 0 ? new Volume(directory) : undefined;
  }

  /** To the last byte. */
  fill(): void {
    const file = openSync(join(this.directory, BALLAST), "a");
    try {
      for (let size = CHUNK.length; size > 0; ) {
        try {
          if (writeSync(file, CHUNK.subarray(0, size)) < size) size = Math.floor(size / 2);
        } catch (thrown) {
          if ((thrown as NodeJS.ErrnoException).code !== "ENOSPC") throw thrown;
          size = Math.floor(size / 2);
        }
      }
    } finally {
      closeSync(file);
    }
  }

  free(): void {
    rmSync(join(this.directory, BALLAST), { force: true });
  }

  clear(): void {
    for (const entry of readdirSync(this.directory))
      rmSync(join(this.directory, entry), { recursive: true, force: true });
  }

  unmount(): void {
    if (!existsSync(this.directory)) return;
    spawnSync("umount", ["-l", this.directory], { stdio: "ignore" });
  }
}
