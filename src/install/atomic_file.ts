import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, dirname } from "node:path";
import { KekError } from "../errors/errors.ts";
import type { Ids } from "./current_state.ts";
import { besideNames } from "./layout.ts";

/**
 * Files and directories that root lays down. A file is made beside its place, unreadable for others from its creation, owned
 * before it has a byte, synced, and renamed over the old one, which is kept until all is well. No link is followed.
 */

export interface PlacedFile {
  undo(): void;
  settle(): void;
}

export interface Rights {
  mode: number;
  /** Undefined leaves it with whoever runs this. */
  ids: Ids | undefined;
}

/** @param fill writes the content into the open file. */
export function placeFile(path: string, rights: Rights, fill: (descriptor: number) => void): PlacedFile {
  const { fresh, old } = besideNames(path);
  const replaced = lstatSync(path, { throwIfNoEntry: false });
  if (replaced?.isDirectory()) throw inTheWay(path);
  writeFresh(path, rights, fill);
  rmSync(old, { force: true });
  if (replaced !== undefined) linkSync(path, old);
  renameSync(fresh, path);
  syncDirectory(dirname(path));
  return {
    undo: () => (replaced === undefined ? unlinkSync(path) : renameSync(old, path)),
    settle: () => rmSync(old, { force: true }),
  };
}

export function placeText(path: string, rights: Rights, content: string): PlacedFile {
  return placeFile(path, rights, (descriptor) => writeFileSync(descriptor, content));
}

/** Replaces a file that was placed just before, whose `undo` puts back what was there before both. */
export function replaceText(path: string, rights: Rights, content: string): void {
  writeFresh(path, rights, (descriptor) => writeFileSync(descriptor, content));
  renameSync(besideNames(path).fresh, path);
  syncDirectory(dirname(path));
}

export function placeCopy(path: string, rights: Rights, from: string): PlacedFile {
  return placeFile(path, rights, (descriptor) => copyInto(descriptor, from));
}

/** Makes a directory, or sets right the one that is there. Those above it are made too, as root's. */
export function placeDirectory(path: string, { mode, ids }: Rights): PlacedFile {
  const missing = missingAbove(path);
  for (const above of missing) mkdirSync(above, { mode: 0o755 });
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there !== undefined && !there.isDirectory()) throw inTheWay(path);
  if (there === undefined) mkdirSync(path, { mode: 0o700 });
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    own(descriptor, ids);
    fchmodSync(descriptor, mode);
  } finally {
    closeSync(descriptor);
  }
  const before = there;
  return {
    undo() {
      if (before !== undefined) return setBack(path, before);
      for (const made of [path, ...missing.reverse()]) rmdirSync(made);
    },
    settle: () => undefined,
  };
}

/** Directories that a file needs above it. @returns those that were made, the lowest last. */
export function makeAbove(path: string): string[] {
  const missing = missingAbove(path);
  for (const above of missing) mkdirSync(above, { mode: 0o755 });
  return missing;
}

// ---------------------------------------------------------------------------------------------------------------------

const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** Writes the file that is renamed over another, complete and synced. */
function writeFresh(path: string, rights: Rights, fill: (descriptor: number) => void): void {
  const { fresh } = besideNames(path);
  try {
    rmSync(fresh, { force: true });
    const descriptor = openSync(fresh, NEW_FILE, 0o600);
    try {
      own(descriptor, rights.ids);
      fill(descriptor);
      fchmodSync(descriptor, rights.mode);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (thrown) {
    // Of a file system that became read-only this would fail too, and hide the reason.
    if (lstatSync(fresh, { throwIfNoEntry: false }) !== undefined) rmSync(fresh, { force: true });
    throw cannotWrite(thrown, path) ?? thrown;
  }
}

function copyInto(descriptor: number, from: string): void {
  const source = openSync(from, "r");
  try {
    const block = new Uint8Array(1 << 20);
    for (let read = readSync(source, block); read > 0; read = readSync(source, block)) {
      for (let written = 0; written < read; ) written += writeSync(descriptor, block, written, read - written);
    }
  } finally {
    closeSync(source);
  }
}

function own(descriptor: number, ids: Ids | undefined): void {
  const is = fstatSync(descriptor);
  if (ids !== undefined && (is.uid !== ids.uid || is.gid !== ids.gid)) fchownSync(descriptor, ids.uid, ids.gid);
}

function setBack(path: string, { mode, uid, gid }: { mode: number; uid: number; gid: number }): void {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    own(descriptor, { uid, gid });
    fchmodSync(descriptor, mode & 0o7777);
  } finally {
    closeSync(descriptor);
  }
}

function missingAbove(path: string): string[] {
  const above = dirname(path);
  return lstatSync(above, { throwIfNoEntry: false }) === undefined ? [...missingAbove(above), above] : [];
}

function syncDirectory(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function inTheWay(path: string): KekError {
  return new KekError(
    "refused",
    `${path} is something else than what install lays down there`,
    `look at it: ls -ld ${path}; move ${basename(path)} away and run this again`,
  );
}

const WHY: Record<string, string> = {
  ENOSPC: "there is no space left on the disk of",
  EDQUOT: "the quota is used up on the disk of",
  EROFS: "install cannot write to the read-only file system of",
};

function cannotWrite(thrown: unknown, path: string): KekError | undefined {
  const why = WHY[(thrown as NodeJS.ErrnoException).code ?? ""];
  if (why === undefined) return undefined;
  return new KekError(
    "refused",
    `${why} ${path}`,
    `see what is mounted and used: df -h ${dirname(path)}; then run this again`,
  );
}
