import { existsSync, readFileSync, statSync } from "node:fs";
import { KekError } from "../errors/errors.ts";
import { must, run } from "./command.ts";
import type { Ids } from "./found.ts";
import { LAYOUT, USER } from "./layout.ts";

/** The system user that everything belongs to, on this host or in the user database below another root. */

/** @returns undefined where there is no such user. */
export async function findUser(root: string): Promise<Ids | undefined> {
  if (root !== "") return fromPasswd(root);
  // The host's user may come from a directory service: it is asked as the host itself would.
  const [uid, gid] = [await run(["id", "-u", USER]), await run(["id", "-g", USER])];
  return uid.code === 0 && gid.code === 0 ? { uid: Number(uid.stdout), gid: Number(gid.stdout) } : undefined;
}

/** The group that owns a directory, unless it is root's. */
export async function groupOf(root: string, directory: string): Promise<string | undefined> {
  const status = statSync(`${root}${directory}`, { throwIfNoEntry: false });
  if (status === undefined || !status.isDirectory())
    throw new KekError(
      "usage",
      `--pkcs11-state=${directory} is not a directory`,
      "name the directory that the module writes to",
    );
  if (status.gid === 0) return undefined;
  return groups(root).find(({ gid }) => gid === status.gid)?.name ?? String(status.gid);
}

/** The number of a group of this host. */
export function groupId(name: string): number | undefined {
  return groups("").find((group) => group.name === name)?.gid;
}

/** Makes user and group. `useradd --prefix` writes below another root and runs nothing of it. */
export async function makeUser(root: string): Promise<Ids> {
  const prefix = root === "" ? [] : ["--prefix", root];
  const hasGroup = groups(root).some(({ name }) => name === USER);
  const shell = ["/usr/sbin/nologin", "/sbin/nologin"].find((path) => existsSync(`${root}${path}`)) ?? "/bin/false";
  if (await has("useradd")) {
    const group = hasGroup ? ["--gid", USER] : ["--user-group"];
    const home = ["--no-create-home", "--home-dir", LAYOUT.state, "--shell", shell];
    await must(["useradd", ...prefix, "--system", ...group, ...home, USER]);
  } else if (root === "" && (await has("adduser"))) {
    if (!hasGroup) await must(["addgroup", "-S", USER]);
    await must(["adduser", "-S", "-D", "-H", "-h", LAYOUT.state, "-s", shell, "-G", USER, USER]);
  } else {
    throw new KekError(
      "refused",
      `the system user ${USER} cannot be made: there is no useradd and no adduser`,
      `make a system user and group ${USER} yourself, and run this again`,
    );
  }
  const made = await findUser(root);
  if (made === undefined) throw new Error(`user ${USER} was made and is not found`);
  return made;
}

export async function removeUser(root: string): Promise<void> {
  const prefix = root === "" ? [] : ["--prefix", root];
  await must((await has("userdel")) ? ["userdel", ...prefix, USER] : ["deluser", USER]);
  if (groups(root).some(({ name }) => name === USER))
    await must((await has("groupdel")) ? ["groupdel", ...prefix, USER] : ["delgroup", USER]);
}

/** A command line that runs as the service user, and dies with this program. Its groups are the user's own and one more. */
export function asServiceUser({ uid, gid }: Ids, group: string | undefined): [string, ...string[]] {
  const extra = group === undefined ? undefined : (groupId(group) ?? Number(group));
  const groups = extra === undefined ? "--clear-groups" : `--groups=${gid},${extra}`;
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, groups, "--inh-caps=-all", "--pdeathsig=KILL", "--"];
}

// ---------------------------------------------------------------------------------------------------------------------

function fromPasswd(root: string): Ids | undefined {
  const line = lines(`${root}/etc/passwd`).find((text) => text.startsWith(`${USER}:`));
  const [, , uid, gid] = (line ?? "").split(":");
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

function groups(root: string): { name: string; gid: number }[] {
  return lines(`${root}/etc/group`).map((line) => {
    const [name = "", , gid] = line.split(":");
    return { name, gid: Number(gid) };
  });
}

function lines(path: string): string[] {
  return existsSync(path)
    ? readFileSync(path, "utf8")
        .split("\n")
        .filter((line) => line !== "")
    : [];
}

async function has(program: string): Promise<boolean> {
  return (await run(["sh", "-c", 'command -v "$0"', program])).code === 0;
}
