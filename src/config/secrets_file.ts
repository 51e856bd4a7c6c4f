import {
  closeSync,
  existsSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, messageOf } from "../errors/errors.ts";

/** The secrets file: `KEY=value` lines, mode 0600, read whole each time it is asked. */

/** Who runs this program; undefined where the system knows no such numbers. */
export interface Reader {
  uid: number | undefined;
  gid: number | undefined;
}

/**
 * Whether nobody reads a file but its owner, or, of a file that root gave to this very program, the program's own group. The latter is how
 * Kubernetes mounts a Secret for a pod that is not root: root's, of the group `fsGroup`, 0440. Pure.
 */
export function isPrivate({ uid, gid, mode }: { uid: number; gid: number; mode: number }, reader: Reader): boolean {
  if ((mode & 0o077) === 0) return true;
  return uid === 0 && reader.uid !== undefined && reader.uid !== 0 && gid === reader.gid && (mode & 0o037) === 0;
}

/**
 * Refuses a file that group or others can read (but see `isPrivate`): its content is the key to everything.
 * Checked on the open descriptor, so the file that is read is the file that was checked.
 * @param from `file_or_pipe` accepts a pipe or a socket too, as in `--pin-file=/dev/fd/3`: nobody else can open it. A descriptor
 * of this process is read itself: a socket, which is a pipe of ksh93, cannot be opened by that path.
 */
export function readPrivateFile(path: string, what: string, from: "file" | "file_or_pipe" = "file"): string {
  const inherited = from === "file_or_pipe" ? /^\/(?:dev|proc\/self)\/fd\/(\d{1,9})$/.exec(path)?.[1] : undefined;
  let descriptor: number;
  try {
    descriptor = inherited === undefined ? openSync(path, "r") : Number(inherited);
    fstatSync(descriptor);
  } catch (thrown) {
    throw new KekError(
      "secret_unreadable",
      `${what} ${path} cannot be read (${(thrown as NodeJS.ErrnoException).code ?? messageOf(thrown)})`,
      (thrown as NodeJS.ErrnoException).code === "ENOENT"
        ? "it is not there: check the path, or restore your copy. A service that runs still has its keys in memory: do not restart it before"
        : "check the path, and that the user running this command owns the file",
    );
  }
  try {
    const status = fstatSync(descriptor);
    if (from === "file_or_pipe" && (status.isFIFO() || status.isSocket())) return readFileSync(descriptor, "utf8");
    if (!status.isFile()) throw new KekError("secret_unreadable", `${what} ${path} is not a file`, "name a file");
    const mode = status.mode & 0o777;
    if (!isPrivate({ ...status, mode }, { uid: process.getuid?.(), gid: process.getgid?.() })) {
      throw new KekError(
        "secrets_file_exposed",
        `${what} ${path} has mode 0${mode.toString(8)}: others can read it`,
        `run: chmod 600 ${path}  (and consider what is in it as seen by whoever had access)`,
      );
    }
    return readFileSync(descriptor, "utf8");
  } finally {
    if (inherited === undefined) closeSync(descriptor);
  }
}

/**
 * Lines of `KEY=value`; blank lines and `#` comments are passed over, `export ` and matching quotes are taken off.
 * @throws KekError `config_invalid` for any other line or a repeated key, by line number, never by content.
 */
export function parseSecrets(content: string, path: string): Record<string, string> {
  const values: Record<string, string> = {};
  content.split("\n").forEach((raw, index) => {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) return;
    const match = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$/.exec(line);
    if (!match) {
      throw new KekError(
        "config_invalid",
        `secrets file ${path}, line ${index + 1}, is not KEY=value`,
        "write one KEY=value a line; comments start with #",
      );
    }
    const [, key, value] = match as unknown as [string, string, string];
    if (key in values) {
      throw new KekError(
        "config_invalid",
        `secrets file ${path} sets ${key} twice (line ${index + 1})`,
        "keep one of the two lines",
      );
    }
    values[key] = value.replace(/^(["'])(.*)\1$/, "$2");
  });
  return values;
}

export function readSecretsFile(path: string): Record<string, string> {
  return parseSecrets(readPrivateFile(path, "secrets file"), path);
}

export interface CopyOfSecret {
  /** Of the copy's name, behind that of the secrets file. */
  ending: string;
  keep: boolean;
}

/** What became of a line that was to be taken out. */
export interface RemovedSecret {
  /** `kept` where this program may not write: a Secret of Kubernetes, a file of root's. */
  line: "removed" | "absent" | "kept";
  /** The file that holds a copy of the line, when one was asked for and there is one. */
  copy: string | undefined;
}

/**
 * Takes the line of one key out of the file: a new file, 0600 from its creation and of the same owner, synced, renamed over
 * the old one. A link is followed: it is the file that holds the key.
 * @param copy the ending of the file beside it that may hold a copy of the line, and whether to make it. A copy is complete and
 * synced before the line is taken out: a process that is killed leaves the line, or a complete copy.
 * @throws KekError `refused` when another file has the copy's name; then nothing is taken out.
 */
export function removeSecret(link: string, key: string, { ending, keep }: CopyOfSecret): RemovedSecret {
  const lines = readPrivateFile(link, "secrets file").split("\n");
  const path = realpathSync(link);
  const isKey = (line: string) => new RegExp(`^\\s*(?:export\\s+)?${key}\\s*=`).test(line);
  const taken = lines.filter(isKey);
  const copy = `${path}.${ending}`;
  // Taken out before: the copy of an earlier run is the one that was asked for.
  if (taken.length === 0) return { line: "absent", copy: keep && existsSync(copy) ? copy : undefined };
  try {
    if (keep) keepCopy(path, copy, `${taken.join("\n")}\n`);
    else removeIfThere(unfinished(copy));
    replace(
      path,
      lines.filter((line) => !isKey(line)),
    );
  } catch (thrown) {
    if (!["EACCES", "EPERM", "EROFS"].includes((thrown as NodeJS.ErrnoException).code ?? "")) throw thrown;
    return { line: "kept", copy: undefined };
  }
  return { line: "removed", copy: keep ? copy : undefined };
}

// ---------------------------------------------------------------------------------------------------------------------

function replace(path: string, lines: string[]): void {
  const fresh = writeBeside(path, path, lines.join("\n"), () => {
    if (import.meta.crashPoints) crashPoint("secrets.created");
  });
  if (import.meta.crashPoints) crashPoint("secrets.written");
  renameSync(fresh, path);
  if (import.meta.crashPoints) crashPoint("secrets.renamed");
  // A power cut must not bring the key back.
  syncDirectoryOf(path);
}

/** A link, not a rename, gives the copy its name: it never replaces a file. What an interrupted run left is used. */
function keepCopy(path: string, copy: string, content: string): void {
  const fresh = writeBeside(copy, path, content, () => {
    if (import.meta.crashPoints) crashPoint("copy.created");
  });
  if (import.meta.crashPoints) crashPoint("copy.written");
  try {
    linkSync(fresh, copy);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== "EEXIST") throw thrown;
    if (readPrivateFile(copy, "the file") !== content) {
      unlinkSync(fresh);
      throw new KekError(
        "refused",
        `${copy} exists and holds something else: no copy of the key can be kept there, and nothing was taken out`,
        "move that file elsewhere, then run the same command again",
      );
    }
  }
  if (import.meta.crashPoints) crashPoint("copy.named");
  unlinkSync(fresh);
  syncDirectoryOf(copy);
}

/**
 * A new file beside `path`, 0600 from its creation, with the owner of `like`, synced. What an interrupted run left there is removed.
 * @returns its name.
 */
function writeBeside(path: string, like: string, content: string, created: () => void): string {
  const fresh = unfinished(path);
  removeIfThere(fresh);
  const descriptor = openSync(fresh, "wx", 0o600);
  created();
  try {
    const { uid, gid } = statSync(like);
    const made = fstatSync(descriptor);
    if (made.uid !== uid || made.gid !== gid) fchownSync(descriptor, uid, gid);
    writeFileSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  return fresh;
}

/** What a file is called until it is complete. */
function unfinished(path: string): string {
  return join(dirname(path), `.${basename(path)}.new`);
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== "ENOENT") throw thrown;
  }
}

function syncDirectoryOf(path: string): void {
  const directory = openSync(dirname(path), "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}
