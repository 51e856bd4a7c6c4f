import { spawn } from "node:child_process";
import process from "node:process";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";

/** One of install, update and uninstall at a time on a host: two would each make keys, and one would write over the other's. */

const LOCK = "/run/certautopilot-install.lock";
/** Nobody but root may open the file, for whoever opens it can hold the lock. It lasts until this program's end closes the pipe. */
const NO_SUCH_PROGRAM = 127;
const HOLD = `umask 077; exec flock -n ${LOCK} sh -c 'echo held; exec cat'`;

/**
 * Does the work while no other of these commands runs on this host.
 * @param changesHost false for a dry run and below another root, which nobody is kept from; nor is who may change nothing.
 * @throws KekError `refused` when another one runs.
 */
export async function withHostLock<T>(changesHost: boolean, log: Log, work: () => Promise<T>): Promise<T> {
  // Directories that we or the host's tools make get their usual modes, whatever umask the caller has.
  process.umask(0o022);
  if (!changesHost || process.getuid?.() !== 0) return await work();
  // A process group of its own: a Ctrl-C is for this program, which still undoes what it did.
  const holder = spawn("sh", ["-c", HOLD], { cwd: "/", detached: true, stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  holder.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => holder.once("close", resolve));
  const held = await Promise.race([
    new Promise<true>((resolve) => holder.stdout.once("data", () => resolve(true))),
    ended,
  ]);
  if (held === NO_SUCH_PROGRAM) {
    log.warn(
      "this host has no flock: nothing keeps another install, update or uninstall from running at the same time",
    );
    return await work();
  }
  if (held !== true) throw notAlone(said.trim());
  try {
    return await work();
  } finally {
    holder.stdin.end();
    await ended;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function notAlone(said: string): KekError {
  if (said === "")
    return new KekError(
      "refused",
      "another install, update or uninstall runs on this host",
      `wait for it, then run this again (it holds ${LOCK})`,
    );
  return new KekError(
    "refused",
    `${LOCK} cannot be held: ${said}`,
    "see that root can make that file, and run this again",
  );
}
