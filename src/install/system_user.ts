import { existsSync, readFileSync, statSync } from "node:fs";
import { KekError } from "../errors/errors.ts";
import { must, run } from "./command.ts";
import type { Ids } from "./current_state.ts";
import { LAYOUT, USER } from "./layout.ts";

/** The system user that everything belongs to, on this host or in the user database below another root. */

/** The comment of a user (its GECOS field) that install made: it says what uninstall may remove. */
const MADE = "made by certautopilot install";
const MADE_WITH_GROUP = "made with its group by certautopilot install";

/** @returns undefined where there is no such user. */
export async function findUser(root: string): Promise<Ids | undefined> {
  if (root !== "") return fromPasswd(root);
  // The host's user may come from a directory service: it is asked as the host itself would.
  const ask = async (what: string) => await run(["id", what, USER]);
  const [uid, gid, all] = [await ask("-u"), await ask("-g"), await ask("-G")];
  if (uid.code !== 0 || gid.code !== 0) return undefined;
  const ids = { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  const groups = all.stdout.trim().split(" ").filter(Boolean).map(Number);
  return { ...ids, groups: groups.filter((group) => group !== ids.gid) };
}

/** The name of a group, for a unit's Group=; its number where it has none. */
export function groupName(root: string, gid: number): string {
  return groups(root).find((group) => group.gid === gid)?.name ?? String(gid);
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
  return groupName(root, status.gid);
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
    const comment = ["--comment", hasGroup ? MADE : MADE_WITH_GROUP];
    await must(["useradd", ...prefix, "--system", ...group, ...home, ...comment, USER]);
  } else if (root === "" && (await has("adduser"))) {
    if (!hasGroup) await must(["addgroup", "-S", USER]);
    const comment = ["-g", hasGroup ? MADE : MADE_WITH_GROUP];
    await must(["adduser", "-S", "-D", "-H", "-h", LAYOUT.state, "-s", shell, ...comment, "-G", USER, USER]);
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

/** What uninstall may remove: what install made, and nobody else uses. The names are for people. */
export interface OwnAccounts {
  user: boolean;
  group: boolean;
  /** Why something stays that has our name. */
  stays: string[];
}

export function ownAccounts(root: string): OwnAccounts {
  const user = accountOf(root);
  const group = groups(root).find(({ name }) => name === USER);
  if (user === undefined) return { user: false, group: false, stays: group === undefined ? [] : [GROUP_STAYS] };
  if (user.comment !== MADE && user.comment !== MADE_WITH_GROUP)
    return { user: false, group: false, stays: [`user ${USER} (uid ${user.uid}): install did not make it`] };
  const others = group?.members.filter((member) => member !== USER) ?? [];
  const primary = accounts(root).filter(({ name, gid }) => name !== USER && gid === group?.gid);
  const users = [...others, ...primary.map(({ name }) => name)];
  if (group === undefined) return { user: true, group: false, stays: [] };
  if (user.comment === MADE) return { user: true, group: false, stays: [GROUP_STAYS] };
  return users.length > 0
    ? { user: true, group: false, stays: [`group ${USER}: it has other members (${users.join(", ")})`] }
    : { user: true, group: true, stays: [] };
}

/** Removes what `ownAccounts` says is ours. */
export async function removeAccounts(root: string): Promise<void> {
  const own = ownAccounts(root);
  const prefix = root === "" ? [] : ["--prefix", root];
  if (own.user && !own.group) await keepGroup(root, prefix);
  else if (own.user) await must((await has("userdel")) ? ["userdel", ...prefix, USER] : ["deluser", USER]);
  if (own.group && groups(root).some(({ name }) => name === USER))
    await must((await has("groupdel")) ? ["groupdel", ...prefix, USER] : ["delgroup", USER]);
}

/** What setpriv of this host can do. That of busybox cannot change the user, and one before util-linux 2.33 knows no --pdeathsig. */
export interface Setpriv {
  changesUser: boolean;
  endsWithParent: boolean;
}

export async function hostSetpriv(): Promise<Setpriv> {
  const { stdout, stderr } = await run(["setpriv", "--help"]);
  const knows = (flag: string) => `${stdout}${stderr}`.includes(flag);
  return { changesUser: knows("--reuid"), endsWithParent: knows("--pdeathsig") };
}

/**
 * A command line that runs as the service user, with the groups that its units have, and ends with this program where setpriv
 * can see to that.
 */
export async function asServiceUser(ids: Ids, group: string | undefined): Promise<[string, ...string[]]> {
  const { uid, gid, groups: further = [] } = ids;
  const extra = group === undefined ? [] : [groupId(group) ?? Number(group)];
  const all = [...further, ...extra];
  const groups = all.length === 0 ? "--clear-groups" : `--groups=${[gid, ...all].join(",")}`;
  const { endsWithParent } = await hostSetpriv();
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, groups, ...(endsWithParent ? ["--pdeathsig=KILL"] : []), "--"];
}

// ---------------------------------------------------------------------------------------------------------------------

const GROUP_STAYS = `group ${USER}: install did not make it`;

/** userdel removes a group of the user's name that has no other members; this one is to stay, so it goes and is made again. */
async function keepGroup(root: string, prefix: string[]): Promise<void> {
  const before = groups(root).find(({ name }) => name === USER);
  await must((await has("userdel")) ? ["userdel", ...prefix, USER] : ["deluser", USER]);
  if (before === undefined || groups(root).some(({ name }) => name === USER)) return;
  await must(
    (await has("groupadd"))
      ? ["groupadd", ...prefix, "--gid", String(before.gid), USER]
      : ["addgroup", "-g", String(before.gid), USER],
  );
}

interface Account extends Ids {
  name: string;
  comment: string;
}

function fromPasswd(root: string): Ids | undefined {
  const account = accountOf(root);
  return account && { uid: account.uid, gid: account.gid };
}

function accountOf(root: string): Account | undefined {
  return accounts(root).find(({ name }) => name === USER);
}

function accounts(root: string): Account[] {
  return lines(`${root}/etc/passwd`).map((line) => {
    const [name = "", , uid, gid, comment = ""] = line.split(":");
    return { name, uid: Number(uid), gid: Number(gid), comment };
  });
}

function groups(root: string): { name: string; gid: number; members: string[] }[] {
  return lines(`${root}/etc/group`).map((line) => {
    const [name = "", , gid, members = ""] = line.split(":");
    return { name, gid: Number(gid), members: members.split(",").filter(Boolean) };
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
