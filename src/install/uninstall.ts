import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { must } from "./command.ts";
import { besideNames, LAYOUT, MONGOD, SERVICE, STAGED_UPDATE, USER, wantsLink } from "./layout.ts";
import { mountsBelow, readMounts } from "./mounts.ts";
import { processesOf } from "./processes.ts";
import { findUser, ownAccounts, removeAccounts } from "./system_user.ts";
import { systemctl, systemdRuns, unitState } from "./systemd.ts";

/** Takes off a host what install has laid down. Keys, data and the user that owns them stay, unless they are purged. */

export interface UninstallRequest {
  root: string;
  purge: boolean;
}

type Action =
  | { do: "stop"; unit: string }
  | { do: "disable"; unit: string }
  | { do: "remove"; path: string }
  /** What is in a directory that something is mounted on, which stays with its mount. */
  | { do: "empty"; path: string; mounts: string[] }
  | { do: "reload" }
  | { do: "remove_accounts" };

export type UninstallStep = Action & { title: string };

export interface Kept {
  path: string;
  bytes: number;
}

export interface UninstallPlan {
  steps: UninstallStep[];
  /** Directories with keys and data: they stay, or with `purge` are what is lost. */
  holds: Kept[];
  /** What has our name, was not made by install, and so stays whatever is purged. */
  stays: string[];
}

/** Nothing is written. @throws KekError `refused` when what is to be purged is in use. */
export async function planUninstall({ root, purge }: UninstallRequest): Promise<UninstallPlan> {
  const there = (path: string) => lstatSync(`${root}${path}`, { throwIfNoEntry: false }) !== undefined;
  const steps: UninstallStep[] = [];
  const stays: string[] = [];
  const remove = (path: string) => {
    if (there(path)) steps.push({ do: "remove", path, title: `removed: ${path}` });
  };
  const driven = root === "" && systemdRuns();
  const units = [
    { unit: SERVICE, file: LAYOUT.serviceUnit },
    { unit: MONGOD, file: LAYOUT.mongodUnit },
  ];
  for (const { unit, file } of units) {
    const state = driven ? await unitState(unit) : { active: false, enabled: there(wantsLink(unit)) };
    if (state.active || (driven && there(file))) steps.push({ do: "stop", unit, title: `stopped: ${unit}` });
    if (driven && state.enabled)
      steps.push({ do: "disable", unit, title: `does not start with the host any more: ${unit}` });
    else remove(wantsLink(unit));
    remove(file);
  }
  if (driven && units.some(({ file }) => there(file)))
    steps.push({ do: "reload", title: "systemd reads its units again" });
  remove(LAYOUT.run);
  const holds = [LAYOUT.etc, LAYOUT.state].filter(there).map((path) => ({ path, bytes: sizeOf(`${root}${path}`) }));
  if (purge) {
    if (root === "") await refuseRunning(driven ? units.map(({ unit }) => unit) : []);
    for (const { path } of holds) {
      const full = `${root}${path}`;
      const mounts = mountsBelow(full, readMounts()).map((mount) => mount.path);
      refuseForeignMounts(mounts, root);
      if (mounts.length === 0) remove(path);
      for (const place of new Set(mounts.length === 0 ? [] : [...mounts, full]))
        steps.push({ do: "empty", path: place, mounts, title: `emptied: ${place}` });
      for (const mount of mounts)
        stays.push(`${mount}: a file system is mounted there; unmount it, see /etc/fstab, and remove the directory`);
    }
    const own = ownAccounts(root);
    const what = [...(own.user ? ["user"] : []), ...(own.group ? ["group"] : [])].join(" and ");
    if (what !== "") steps.push({ do: "remove_accounts", title: `removed: system ${what} ${USER}` });
    stays.push(...own.stays);
    // One of a directory service is in no file of this host.
    if (!own.user && own.stays.length === 0 && (await findUser(root)) !== undefined)
      stays.push(`user ${USER}: install did not make it`);
  }
  for (const { file } of units)
    if (there(`${file}.d`))
      stays.push(`${file}.d: changes of your own (systemctl edit); remove it if nothing needs it`);
  // The last step: what fails before it is finished with this very program.
  for (const path of [STAGED_UPDATE, ...Object.values(besideNames(LAYOUT.binary)), LAYOUT.binary]) remove(path);
  return { steps, holds, stays };
}

/** @throws KekError with what could not be done; a second run continues from there. */
export async function uninstall(root: string, steps: UninstallStep[], log: Log): Promise<void> {
  for (const step of steps) {
    try {
      await perform(root, step);
    } catch (thrown) {
      throw new KekError(
        "refused",
        `not done: "${step.title}": ${messageOf(thrown)}`,
        "what was done before it is done; repair this, and run it again",
      );
    }
    log.info(`… ${step.title}`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function perform(root: string, step: UninstallStep): Promise<void> {
  switch (step.do) {
    case "stop":
      await systemctl("stop", step.unit);
      return await systemctl("reset-failed", step.unit).catch(() => undefined);
    case "disable":
      return await systemctl("disable", "--quiet", step.unit);
    case "remove":
      return await removeTree(`${root}${step.path}`);
    case "reload":
      return await systemctl("daemon-reload");
    case "empty":
      return await empty(step.path, step.mounts);
    case "remove_accounts":
      return await removeAccounts(root);
  }
}

/**
 * By the system's rm, which goes by open directories: were it by paths, the service's user, who owns some of them, could put a
 * link where a directory was a moment ago.
 */
async function removeTree(path: string): Promise<void> {
  await must(["rm", "-rf", "--", path], { limitMs: 600_000 });
}

/** By find, which goes by open directories too, and stays in one file system. */
async function empty(path: string, mounts: string[]): Promise<void> {
  const inside = ["find", path, "-xdev", "-mindepth", "1"] as const;
  await must([...inside, "!", "-type", "d", "-delete"], { limitMs: 600_000 });
  const others = mounts.flatMap((mount) => ["!", "-path", mount]);
  await must([...inside, "-type", "d", "-empty", ...others, "-delete"], { limitMs: 600_000 });
}

/** A mongod that runs removes files while they are counted. */
function sizeOf(path: string): number {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status === undefined) return 0;
  if (!status.isDirectory()) return status.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

/**
 * A process that was started by hand would write on into files that are gone, and its user could not be removed. Of a user that
 * install did not make, only our own programs count.
 */
async function refuseRunning(units: string[]): Promise<void> {
  const user = await findUser("");
  if (user === undefined) return;
  const isOurs = ownAccounts("").user;
  const running = processesOf(user.uid, units).filter(
    (each) => isOurs || each.program === LAYOUT.binary || each.arguments.includes(LAYOUT.mongodConfig),
  );
  if (running.length === 0) return;
  throw new KekError(
    "refused",
    `processes of the user ${USER} run outside of its units: ${running.map(({ name, pid }) => `${name} (pid ${pid})`).join(", ")}`,
    "stop them as they were started (mongod with SIGTERM), then run this again",
  );
}

/** A purge empties file systems of ours. What somebody mounted elsewhere inside may be anything. */
function refuseForeignMounts(mounts: string[], root: string): void {
  const ours = [LAYOUT.etc, LAYOUT.state, LAYOUT.mongodData].map((path) => `${root}${path}`);
  const foreign = mounts.find((mount) => !ours.includes(mount));
  if (foreign === undefined) return;
  throw new KekError(
    "refused",
    `a file system is mounted at ${foreign}, and a purge would empty it`,
    `unmount it first: umount ${foreign}`,
  );
}
