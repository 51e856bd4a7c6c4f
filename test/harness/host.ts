import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  type Stats,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

/**
 * A Debian 12 host for one test: the root of scripts/host-root under an overlay of its own, run by systemd-nspawn, with
 * systemd as its init or without. It has the network of this machine, mounts that end with it, and no other state.
 */
export interface Host {
  /** Runs a program inside, as root, with a login's bare environment. */
  run(argv: string[], options?: RunOptions): Promise<Ended>;
  /** Where a path of the host is seen from this machine while the host runs. */
  path(inside: string): string;
  /** Every path made, changed or removed since the host was up: `path → what is there now`. Not what systemd itself keeps. */
  written(): Map<string, string>;
  /** What starts a program inside, in a session of its own on the terminal that it is started on. */
  readonly onTerminal: string[];
  /** A login's bare environment, as `NAME=value`. */
  readonly login: string[];
  /** Its network, as `nsenter --net` and others take it. */
  readonly network: string;
  stop(): Promise<void>;
}

export interface RunOptions {
  stdin?: string | Buffer;
  env?: Record<string, string>;
  /** Milliseconds; 60,000 unless told. */
  timeoutMs?: number;
  /** True: an exit code other than 0 is thrown, with what was said. */
  check?: boolean;
}

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** The root that hosts are copies of; undefined where none can be made. ./scripts/test sets it. */
export const HOST_ROOT = process.env["CERTAUTOPILOT_TEST_HOST_ROOT"];
/** The same of Debian 11, with systemd 247 and without a mongod. */
export const HOST_ROOT_11 = process.env["CERTAUTOPILOT_TEST_HOST_ROOT_11"];

export interface HostOptions {
  boot: boolean;
  mongod?: boolean;
  /** Debian 12 unless told. */
  debian?: 11;
  /** A loopback of its own, where every port is free; this machine's network unless told. */
  network?: "own";
}

/**
 * @param boot true: systemd is the host's init and has finished starting; false: nothing runs in it.
 * @param mongod false: there is no mongod on the host's PATH.
 */
export async function startHost({ boot, mongod = true, debian, network }: HostOptions): Promise<Host> {
  const root = debian === 11 ? HOST_ROOT_11 : HOST_ROOT;
  if (root === undefined) throw new Error("CERTAUTOPILOT_TEST_HOST_ROOT is not set: use ./scripts/test");
  const work = mkdtempSync(join(tmpdir(), "certautopilot-host-"));
  for (const name of ["upper", "work", "root"]) mkdirSync(join(work, name), { mode: 0o755 });
  const groups = ownControlGroups(basename(work));
  const lower = mongod && debian === undefined ? `${root}.more:${root}` : root;
  const nspawn = [
    ...[
      "systemd-nspawn",
      "--quiet",
      "--register=no",
      "--keep-unit",
      "--link-journal=no",
      "--resolv-conf=off",
      "--timezone=off",
    ],
    ...[`--machine=${basename(work).toLowerCase()}`, "--hostname=host", `--directory=${work}/root`, "--console=pipe"],
    ...(network === "own" ? ["--private-network"] : []),
    // A unit's mongod locks memory, which a container may not unless it is told.
    "--system-call-filter=@memlock",
    ...(boot ? ["--boot"] : ["--as-pid2", "sleep", "infinity"]),
  ];
  // The overlay is mounted where only this host sees it, and so goes with it.
  const script = [
    ...groups.map((group) => `echo $$ >'${group}/cgroup.procs'`),
    `mount -t overlay overlay -o 'lowerdir=${lower},upperdir=${work}/upper,workdir=${work}/work' '${work}/root'`,
    'exec "$@"',
  ].join("\n");
  const child = spawn("unshare", ["--mount", "sh", "-ec", script, "sh", ...nspawn], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  running.add(child);
  const stop = async () => {
    end(child);
    await ended;
    running.delete(child);
    rmSync(work, { recursive: true, force: true });
    for (const group of groups) await removeControlGroup(group);
  };
  try {
    const leader = await until(
      "the host's first process",
      () => leaderOf(child),
      () => child.exitCode === null || said,
    );
    const host = hostOf(leader, stop);
    if (boot) {
      await until(
        "systemd",
        async () => {
          const { stdout } = await host.run(["systemctl", "is-system-running"]);
          return /running|degraded/.test(stdout) ? true : undefined;
        },
        () => child.exitCode === null || said,
      );
    }
    const upper = join(work, "upper");
    const before = listing(upper, root);
    return { ...host, written: () => difference(before, listing(upper, root)) };
  } catch (thrown) {
    await stop();
    throw new Error(`the host did not start: ${said}`, { cause: thrown });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What a booted Debian writes by itself, and what is written with the clock. */
const ITS_OWN = [
  /^\/var\/log\//,
  /^\/var\/lib\/systemd\//,
  /^\/var\/cache\//,
  /^\/etc\/(machine-id|resolv\.conf|localtime)$/,
];

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) end(child);
});

/** The container's first process takes all others with it; without it systemd-nspawn has nothing more to do. */
function end(child: ChildProcess): void {
  const leader = leaderOf(child);
  if (leader !== undefined) process.kill(leader, "SIGKILL");
  child.kill("SIGKILL");
}

function hostOf(leader: number, stop: Host["stop"]): Omit<Host, "written"> {
  return {
    stop,
    onTerminal: ["nsenter", "-t", `${leader}`, "-a", "setsid", "--ctty", "--wait"],
    login: [`PATH=${PATH}`, "HOME=/root", "LANG=C.UTF-8"],
    network: `/proc/${leader}/ns/net`,
    path: (inside) => join(`/proc/${leader}/root`, inside),
    async run(argv, { stdin, env = {}, timeoutMs = 60_000, check = false } = {}) {
      const bare = { PATH, HOME: "/root", LANG: "C.UTF-8", TERM: "dumb", ...env };
      const words = Object.entries(bare).map(([name, value]) => `${name}=${value}`);
      const child = spawn("nsenter", ["-t", `${leader}`, "-a", "env", "-C", "/root", "-i", ...words, ...argv], {
        stdio: ["pipe", "pipe", "pipe"],
      });
      let stdout = "";
      let stderr = "";
      child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
      child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
      child.stdin.on("error", () => undefined);
      child.stdin.end(stdin ?? "");
      const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
      const code = await new Promise<number | null>((resolve, reject) => {
        child.once("error", reject);
        child.once("close", resolve);
      });
      clearTimeout(timer);
      if (check && code !== 0) throw new Error(`${argv.join(" ")} ended with ${code}\n${stdout}\n${stderr}`);
      return { code, stdout, stderr };
    },
  };
}

/** The init of the container: the child of systemd-nspawn, which unshare has become or has started. */
function leaderOf(child: ChildProcess): number | undefined {
  let pid = child.pid;
  for (let depth = 0; depth < 4 && pid !== undefined; depth += 1) {
    let children: number[];
    try {
      children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")
        .trim()
        .split(" ")
        .filter(Boolean)
        .map(Number);
    } catch {
      return undefined;
    }
    const inside = children.find((each) => namespaceOf(each) !== namespaceOf(process.pid));
    // Its root is the container's only once it has mounted everything.
    if (inside !== undefined) return existsSync(`/proc/${inside}/root/run/host`) ? inside : undefined;
    pid = children[0];
  }
  return undefined;
}

function namespaceOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return "";
  }
}

/** Two systemds in one control group would take each other's units for their own. */
function ownControlGroups(name: string): string[] {
  return ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
    .filter((mount) => existsSync(join(mount, "cgroup.procs")))
    .map((mount) => {
      const group = join(mount, name);
      mkdirSync(group, { recursive: true });
      return group;
    });
}

/** Its processes are dead, but the kernel may take a moment to see them out of their groups. */
async function removeControlGroup(group: string): Promise<void> {
  for (const entry of readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) await removeControlGroup(join(group, entry.name));
  for (let tries = 0; tries < 40; tries += 1) {
    try {
      return rmdirSync(group);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  process.stderr.write(`note: the control group ${group} is left\n`);
}

async function until<T>(
  what: string,
  look: () => T | undefined | Promise<T | undefined>,
  alive: () => true | string,
): Promise<T> {
  for (const end = Date.now() + 60_000; Date.now() < end; ) {
    const found = await look();
    if (found !== undefined) return found;
    const state = alive();
    if (state !== true) throw new Error(`ended before ${what} was there: ${state}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${what} did not come up`);
}

function listing(upper: string, root: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of readdirSync(upper, { recursive: true, encoding: "utf8" })) {
    const path = `/${name}`;
    if (ITS_OWN.some((pattern) => pattern.test(path))) continue;
    const entry = lstatSync(join(upper, name), { throwIfNoEntry: false });
    if (entry === undefined) continue;
    const owner = ownerOf(entry);
    if (entry.isDirectory()) {
      // One of the lower layer stands here too as soon as something in it has changed.
      if (ownerOf(lstatSync(join(root, name), { throwIfNoEntry: false })) !== owner)
        found.set(path, `directory ${owner}`);
    } else if (entry.isSymbolicLink()) found.set(path, `link to ${readlinkSync(join(upper, name))}`);
    // How an overlay says that a file of the lower layer is gone.
    else if (entry.isCharacterDevice()) found.set(path, "removed");
    else if (entry.isFile()) {
      const digest = createHash("sha256")
        .update(readFileSync(join(upper, name)))
        .digest("hex")
        .slice(0, 16);
      found.set(path, `file ${owner} ${entry.size} bytes ${digest} ${entry.mtimeMs}`);
    } else found.set(path, `other ${owner}`);
  }
  return found;
}

function ownerOf(entry: Stats | undefined): string | undefined {
  return entry && `${(entry.mode & 0o7777).toString(8)} ${entry.uid}:${entry.gid}`;
}

function difference(before: Map<string, string>, after: Map<string, string>): Map<string, string> {
  const changed = new Map([...after].filter(([path, what]) => before.get(path) !== what));
  for (const path of before.keys()) if (!after.has(path)) changed.set(path, "gone");
  return changed;
}
