import { existsSync, readFileSync, realpathSync, statfsSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { addressOf } from "./address.ts";
import { run } from "./command.ts";
import type { Ids } from "./current_state.ts";
import { USER } from "./layout.ts";
import { type Mount, mountOf, nearest, readMounts } from "./mounts.ts";
import { asServiceUser, groupId, hostSetpriv } from "./system_user.ts";

/** What a host lets an install do, looked at before the first change. Nothing is written. */

export interface HostFacts {
  /** By path that install writes to: what it is on. */
  places: Place[];
  /** By path that the service needs: why its user cannot read it. */
  unreadable: Map<string, string>;
  /** By address: why nobody can listen there. */
  taken: Map<string, "in use" | "no address of this host" | "not allowed" | string>;
  /** Below it only root listens. */
  firstFreePort: number;
  /** Whether setpriv can change the user; busybox's cannot. */
  changesUser: boolean;
  /** The process that works with Debian's packages now, as `apt-get (pid 812)`. */
  packagesBusy: string | undefined;
}

export interface Place {
  path: string;
  mount: string;
  readOnly: boolean;
  freeBytes: number;
}

export interface Looked {
  /** That install writes to. */
  places: string[];
  /** That the service's user reads. */
  readable: string[];
  addresses: string[];
  user: Ids | undefined;
  /** A group that the units add. */
  extraGroup: string | undefined;
}

export async function lookAtHost({ places, readable, addresses, user, extraGroup }: Looked): Promise<HostFacts> {
  const mounts = readMounts();
  const unreadable = new Map<string, string>();
  const { changesUser } = await hostSetpriv();
  for (const path of readable) {
    const why = changesUser ? await whyUnreadable(path, user ?? nobody(), extraGroup) : undefined;
    if (why !== undefined) unreadable.set(path, why);
  }
  const taken = new Map<string, string>();
  for (const address of addresses) {
    const why = await whyTaken(address);
    if (why !== undefined) taken.set(address, why);
  }
  return {
    places: places.map((path) => placeOf(path, mounts)),
    unreadable,
    taken,
    firstFreePort: firstFreePort(),
    changesUser,
    packagesBusy: await packagesBusy(),
  };
}

/** A directory whose programs may run, for what is unpacked by root. The last one holds a program that runs. */
export function executableDirectory(candidates: string[]): string {
  const mounts = readMounts();
  const may = (path: string) => existsSync(path) && mountOf(path, mounts)?.noexec !== true;
  return candidates.find(may) ?? (candidates.at(-1) as string);
}

// ---------------------------------------------------------------------------------------------------------------------

/** Who has the rights that anybody has, as the user that is made later; in its group, where that is here already. */
function nobody(): Ids {
  return { uid: 65_534, gid: groupId(USER) ?? 65_534 };
}

function placeOf(path: string, mounts: Mount[]): Place {
  const mount = mountOf(path, mounts);
  const { bavail, bsize } = statfsSync(nearest(path));
  return {
    path,
    mount: mount?.path ?? "/",
    readOnly: mount?.readOnly === true,
    freeBytes: bavail * bsize,
  };
}

/** Asked as the user itself, so that access lists count too. */
async function whyUnreadable(path: string, user: Ids, group: string | undefined): Promise<string | undefined> {
  const real = realpathSync(path);
  const as = await asServiceUser(user, group);
  // What setpriv cannot do says nothing about the path.
  if ((await run([...as, "true"])).code !== 0) return undefined;
  const flag = statSync(real).isDirectory() ? "-x" : "-r";
  if ((await run([...as, "test", flag, real])).code === 0) return undefined;
  for (let above = real; above !== "/"; above = above.slice(0, above.lastIndexOf("/")) || "/") {
    const parent = above.slice(0, above.lastIndexOf("/")) || "/";
    if ((await run([...as, "test", "-x", parent])).code === 0) return above;
  }
  return real;
}

/** @returns why it cannot be listened on; undefined when it can. */
async function whyTaken(address: string): Promise<string | undefined> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => resolve(WHY[error.code ?? ""] ?? error.message));
    server.listen({ ...addressOf(address), exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}

const WHY: Record<string, string> = {
  EADDRINUSE: "in use",
  EADDRNOTAVAIL: "no address of this host",
  EACCES: "not allowed",
};

function firstFreePort(): number {
  const file = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
  return existsSync(file) ? Number(readFileSync(file, "utf8")) : 1024;
}

/** dpkg holds a POSIX lock on this file, which the kernel lists with its owner (proc(5), /proc/locks). */
async function packagesBusy(): Promise<string | undefined> {
  const lock = statSync("/var/lib/dpkg/lock-frontend", { throwIfNoEntry: false });
  if (lock === undefined || !existsSync("/proc/locks")) return undefined;
  const held = readFileSync("/proc/locks", "utf8")
    .split("\n")
    .map((line) => /POSIX +\S+ +WRITE +(\d+) +\S+:(\d+) /.exec(line))
    .find((found) => found?.[2] === String(lock.ino));
  if (held === undefined || held === null) return undefined;
  const pid = held[1];
  const name = existsSync(`/proc/${pid}/comm`) ? readFileSync(`/proc/${pid}/comm`, "utf8").trim() : "a process";
  return `${name} (pid ${pid})`;
}
