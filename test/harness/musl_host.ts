import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { Ended } from "./host.ts";

/** The root of `scripts/foreign-root musl`; undefined where it cannot be had, or cannot be entered. */
export const MUSL_ROOT = process.getuid?.() === 0 ? process.env["CERTAUTOPILOT_TEST_MUSL_ROOT"] : undefined;

/** A host of another family: musl and busybox, and nothing else; a copy of that root, entered by chroot. */
export interface MuslHost {
  path(inside: string): string;
  /** Starts a program inside, in processes of its own that end with it. */
  start(argv: string[], stdin?: string | Buffer): ChildProcess;
  run(argv: string[], stdin?: string | Buffer): Promise<Ended>;
  /** Every path inside, and what is there. */
  listing(): Map<string, string>;
}

export function muslHost(directory: string): MuslHost {
  const root = join(directory, "musl");
  cpSync(`${MUSL_ROOT}`, root, { recursive: true, verbatimSymlinks: true });
  const enter = 'mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; exec chroot "$0" /bin/env -i "$@"';
  const start: MuslHost["start"] = (argv, stdin = "") => {
    const words = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", enter, root];
    const env = ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"];
    // Without a terminal, as a job is.
    const child = spawn("unshare", [...words, ...env, ...argv], {
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(stdin);
    return child;
  };
  return {
    path: (inside) => join(root, inside),
    start,
    async run(argv, stdin) {
      const child = start(argv, stdin);
      const ended: Ended = { code: null, stdout: "", stderr: "" };
      child.stdout?.on("data", (chunk: Buffer) => (ended.stdout += chunk.toString()));
      child.stderr?.on("data", (chunk: Buffer) => (ended.stderr += chunk.toString()));
      ended.code = await new Promise((resolve) => child.once("close", resolve));
      return ended;
    },
    listing() {
      const names = readdirSync(root, { recursive: true, encoding: "utf8" });
      return new Map(names.map((name) => [`/${name}`, whatIs(join(root, name))]));
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

function whatIs(path: string): string {
  const entry = lstatSync(path);
  const owner = `${(entry.mode & 0o7777).toString(8)} ${entry.uid}:${entry.gid}`;
  if (entry.isSymbolicLink()) return `link to ${readlinkSync(path)}`;
  return entry.isFile() ? `${owner} ${Bun.hash(readFileSync(path))} ${entry.mtimeMs}` : owner;
}
