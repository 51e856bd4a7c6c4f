import { chmodSync, existsSync, renameSync, rmSync } from "node:fs";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { placeCopy } from "./atomic_file.ts";
import { run } from "./command.ts";
import { besideNames, LAYOUT, SERVICE, STAGED_UPDATE } from "./layout.ts";
import { checkBase, expectedDigest, fetchProgram, type ReleaseFile } from "./release.ts";
import { refuseDowngrade } from "./release_version.ts";
import { awaitUnit, notReady, startUnit } from "./service_readiness.ts";
import { digestOfFile } from "./survey.ts";
import { systemctl, unitState } from "./systemd.ts";
import { UndoList } from "./undo_list.ts";

/** Another release of the program in place of this one; the old one comes back when the service does not get ready with it. */

export interface UpdateRequest {
  root: string;
  release: ReleaseFile;
  allowDowngrade: boolean;
  /** Where `/readyz` is asked; undefined where no service is restarted. */
  readyUrl: string | undefined;
}

export interface UpdatePlan {
  installed: string | undefined;
  digest: string;
  /** False when the program in place is that file already. */
  change: boolean;
  /** False where the service is not running: then it is not started either. */
  restart: boolean;
}

/** Looks, and refuses what cannot be. Nothing is written. @throws KekError `usage`, `refused`, `not_installed`. */
export async function planUpdate({ root, release, allowDowngrade, readyUrl }: UpdateRequest): Promise<UpdatePlan> {
  checkBase(release.base);
  const target = `${root}${LAYOUT.binary}`;
  if (!existsSync(target)) {
    throw new KekError(
      "not_installed",
      `there is no ${target}: nothing is installed here`,
      "begin with: certautopilot install",
    );
  }
  const digest = await expectedDigest(release);
  // A run that was killed has left the program that it replaced, and perhaps a service that still runs it.
  const { old } = besideNames(target);
  const current = existsSync(old) ? old : target;
  const change = current === old || (await digestOfFile(target)) !== digest;
  // Of a program below another root nothing is run, so its version is not known.
  const installed = root === "" ? (await run([current, "--version"], { limitMs: 20_000 })).stdout.trim() : undefined;
  if (!allowDowngrade) refuseDowngrade(installed, release.version);
  const restart = readyUrl !== undefined && (await unitState(SERVICE)).active;
  return { installed, digest, change, restart };
}

/** @throws KekError of what failed; the old program is back then, and runs if it ran. */
export async function update(
  request: UpdateRequest,
  plan: UpdatePlan,
  log: Log,
  interrupted: AbortSignal,
): Promise<void> {
  const { root, release } = request;
  const target = `${root}${LAYOUT.binary}`;
  const staged = `${root}${STAGED_UPDATE}`;
  const undoList = new UndoList();
  const { old } = besideNames(target);
  rmSync(staged, { force: true });
  if (existsSync(old)) renameSync(old, target);
  try {
    log.info(`fetching ${release.name} ${release.version}`);
    await fetchProgram(release, plan.digest, staged);
    if (root === "") await tryOut(staged, release.version);
    const placed = placeCopy(target, { mode: 0o755, ids: { uid: 0, gid: 0 } }, staged);
    undoList.did({ what: `program ${target}`, ...placed });
    if (plan.restart) await restarted(request, undoList, log, interrupted);
    undoList.settle();
  } catch (thrown) {
    throw await putBack(request, plan, undoList, thrown, log);
  } finally {
    rmSync(staged, { force: true });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** It is what its hash says; whether it runs on this machine is another question, asked before anything is replaced. */
async function tryOut(staged: string, version: string): Promise<void> {
  chmodSync(staged, 0o755);
  const { code, stdout, stderr } = await run([staged, "--version"], { limitMs: 20_000 });
  if (code === 0 && stdout.trim() === version) return;
  const said = `${stdout} ${stderr}`.trim().split("\n").at(-1) ?? "";
  throw new KekError(
    "refused",
    `the program fetched is not ${version}, or does not run here: asked for its version it ended with ${code}${said === "" ? "" : ` and said ${said}`}`,
    "check --version, and that this machine still is what the installed program was chosen for",
  );
}

async function restarted(
  request: UpdateRequest,
  undoList: UndoList,
  log: Log,
  interrupted: AbortSignal,
): Promise<void> {
  const { readyUrl = "" } = request;
  undoList.afterUndo({
    what: `${SERVICE} with the program it had`,
    async undo() {
      await systemctl("restart", SERVICE);
      const wait = { log, interrupted: new AbortController().signal };
      await awaitUnit(SERVICE, readyUrl, async () => await notReady(readyUrl), wait);
    },
  });
  log.info(`restarting ${SERVICE}`);
  await startUnit("restart", SERVICE, log);
  await awaitUnit(SERVICE, readyUrl, async () => await notReady(readyUrl), { log, interrupted });
}

async function putBack(
  { release }: UpdateRequest,
  { installed, restart }: UpdatePlan,
  undoList: UndoList,
  thrown: unknown,
  log: Log,
): Promise<unknown> {
  const left = await undoList.undo();
  for (const what of left) log.warn(`left: ${what}`);
  if (!(thrown instanceof KekError)) return thrown;
  const state =
    left.length > 0
      ? "what is left is listed above"
      : `${installed ?? "the old program"} is in place${restart ? " and ready" : ""}`;
  return new KekError(thrown.code, `${release.version} was not taken: ${thrown.message}`, `${thrown.hint} (${state})`, {
    cause: thrown,
  });
}
