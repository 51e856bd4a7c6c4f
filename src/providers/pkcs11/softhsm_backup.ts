import type { Buffer } from "node:buffer";
import {
  chownSync,
  closeSync,
  fchownSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { threadId } from "node:worker_threads";
import { KekError } from "../../errors/errors.ts";
import { tokenFiles } from "./softhsm_files.ts";

/**
 * Copies of SoftHSM's `token.object`, one for each token directory, taken before a login. SoftHSM writes that file in place at each
 * C_Login, and a process that is killed then leaves it empty. A copy holds no key: those are in other files.
 */

/**
 * Copies the token's file, unless the copy is the same already. Several processes may do so at once.
 * @param serial of the token, with which the name of its directory ends.
 * @throws KekError `hsm_token` when the module is not SoftHSM, or when the copy cannot be written.
 */
export function backUpToken(modulePath: string, directory: string, serial: string): void {
  const files = tokenFiles(modulePath).filter((file) => directoryOf(file).replaceAll("-", "").endsWith(serial));
  if (files.length === 0)
    throw new KekError(
      "hsm_token",
      `softhsm_backup_dir is set, and no file of SoftHSM belongs to the token with serial ${serial}`,
      "unset CERTAUTOPILOT_ENCRYPTION_PKCS11_SOFTHSM_BACKUP_DIR where the module is not SoftHSM with its file backend",
    );
  for (const file of files) {
    try {
      copyWhole(file, backupOf(file, directory));
    } catch (thrown) {
      throw new KekError(
        "hsm_token",
        `${file} cannot be copied to ${directory}: ${(thrown as NodeJS.ErrnoException).code ?? "unexpected error"}`,
        "let the user who runs this read the file and write to CERTAUTOPILOT_ENCRYPTION_PKCS11_SOFTHSM_BACKUP_DIR, or unset it",
        { cause: thrown },
      );
    }
  }
}

/** The command that brings an empty file back from its copy. undefined when there is no intact copy. */
export function restoreCommand(file: string, directory: string | undefined): string | undefined {
  if (directory === undefined) return undefined;
  const copy = backupOf(file, directory);
  // Onto the file that is there: it keeps its owner and mode.
  return isIntact(readIfThere(copy)) ? `cp ${quoted(copy)} ${quoted(file)}` : undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

/** SoftHSM needs microseconds to write the file. Twenty looks are 100 ms. */
const LOOKS = 20;
const LOOK_MS = 5;
/** CKA_OS_TOKENLABEL, TOKENSERIAL, TOKENFLAGS, SOPIN and USERPIN: without one of them it is no usable token. */
const NEEDED = [0x80005349, 0x8000534a, 0x8000534b, 0x8000534c, 0x8000534d];
const KIND = { boolean: 1, number: 2, bytes: 3 };

const directoryOf = (file: string) => basename(dirname(file));
const backupOf = (file: string, directory: string) => join(directory, directoryOf(file), "token.object");

/** A file that another process is writing is read again. One that stays incomplete replaces no copy. */
function copyWhole(file: string, copy: string): void {
  for (let look = 0; look < LOOKS; look += 1) {
    const content = readStable(file);
    if (isIntact(content)) {
      if (readIfThere(copy)?.equals(content) === true) return;
      write(copy, content);
    } else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK_MS);
  }
}

/** @returns undefined when the file changed while it was read. */
function readStable(file: string): Buffer | undefined {
  const stamp = () => {
    const { ino, size, mtimeNs } = statSync(file, { bigint: true });
    return `${ino} ${size} ${mtimeNs}`;
  };
  const before = stamp();
  const content = readFileSync(file);
  return stamp() === before ? content : undefined;
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (thrown) {
    // A copy that another user made, and this one may not read, is as good as none.
    if (["ENOENT", "EACCES"].includes((thrown as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw thrown;
  }
}

/** Whether the content is a token's file to its last byte: a generation number, then attributes of type, kind and value. */
function isIntact(content: Buffer | undefined): content is Buffer {
  if (content === undefined) return false;
  const seen = new Set<number>();
  let at = 8;
  const number = () => {
    at += 8;
    return at <= content.length ? Number(content.readBigUInt64BE(at - 8)) : Number.NaN;
  };
  while (at < content.length) {
    const type = number();
    const kind = number();
    // The length moves `at` too.
    const bytes = kind === KIND.boolean ? 1 : kind === KIND.number ? 8 : kind === KIND.bytes ? number() : Number.NaN;
    at += bytes;
    if (!(at <= content.length)) return false;
    seen.add(type);
  }
  return NEEDED.every((type) => seen.has(type));
}

/**
 * In place of the old copy in one step, and on the disk before this returns. What root makes belongs to the owner of the directory of all
 * copies, so that the service's user can replace it.
 */
function write(copy: string, content: Buffer): void {
  mkdirSync(dirname(copy), { recursive: true, mode: 0o700 });
  const { uid, gid } = statSync(dirname(dirname(copy)));
  const isRoot = process.getuid?.() === 0;
  if (isRoot) chownSync(dirname(copy), uid, gid);
  const fresh = `${copy}.${process.pid}.${threadId}.new`;
  rmSync(fresh, { force: true });
  const descriptor = openSync(fresh, "wx", 0o600);
  try {
    if (isRoot) fchownSync(descriptor, uid, gid);
    writeFileSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(fresh, copy);
  const directory = openSync(dirname(copy), "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}
