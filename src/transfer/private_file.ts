import { randomBytes } from "node:crypto";
import { type FileHandle, lstat, open, rename, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KekError, messageOf } from "../errors/errors.ts";

/** A file that is there whole or not at all: written beside its place under another name, mode 0600 from the first byte. */

export class PrivateFile {
  readonly #target: string;
  readonly #part: string;
  #handle: FileHandle | undefined;

  private constructor(target: string, part: string, handle: FileHandle) {
    this.#target = target;
    this.#part = part;
    this.#handle = handle;
  }

  /** @throws KekError `archive_unwritable` when there is a file of that name, or none can be made there. */
  static async create(target: string): Promise<PrivateFile> {
    await mustBeFree(target);
    const part = join(dirname(target), `.${basename(target)}.${randomBytes(4).toString("hex")}.part`);
    try {
      return new PrivateFile(target, part, await open(part, "wx", 0o600));
    } catch (thrown) {
      throw unwritable(target, thrown);
    }
  }

  /** @throws KekError `archive_unwritable`. */
  async write(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.#open.write(bytes, at, bytes.length - at);
        at += bytesWritten;
      }
    } catch (thrown) {
      throw unwritable(this.#target, thrown);
    }
  }

  /** Makes sure that what was written is on the disk. */
  async sync(): Promise<void> {
    try {
      await this.#open.sync();
      await this.#open.close();
      this.#handle = undefined;
    } catch (thrown) {
      throw unwritable(this.#target, thrown);
    }
  }

  /** Gives it its name; after `sync`. What fails leaves no file of that name. */
  async place(): Promise<void> {
    await mustBeFree(this.#target);
    try {
      // Before the file has its name: who may write into a directory may not always read it.
      const directory = await open(dirname(this.#target), "r");
      try {
        await rename(this.#part, this.#target);
        await directory.sync().catch(async (thrown) => {
          await rename(this.#target, this.#part);
          throw thrown;
        });
      } finally {
        await directory.close();
      }
    } catch (thrown) {
      throw unwritable(this.#target, thrown);
    }
  }

  /** Leaves nothing of it. */
  async discard(): Promise<void> {
    await this.#handle?.close().catch(() => undefined);
    this.#handle = undefined;
    try {
      await unlink(this.#part);
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ENOENT") throw unwritable(this.#target, thrown);
    }
  }

  get #open(): FileHandle {
    if (this.#handle === undefined) throw new Error("the file is closed");
    return this.#handle;
  }
}

const PIECE = 256 * 1024;

/** A file's bytes, a piece at a time. @throws KekError `archive_unreadable`. */
export async function* piecesOf(path: string): AsyncGenerator<Uint8Array> {
  let handle: FileHandle | undefined;
  try {
    // A pipe gives its bytes once, and who opens one waits for its writer, deaf to Ctrl-C.
    if (!(await stat(path)).isFile()) throw noFile(path);
    handle = await open(path, "r");
    for (;;) {
      const piece = new Uint8Array(PIECE);
      const { bytesRead } = await handle.read(piece, 0, PIECE);
      if (bytesRead === 0) return;
      yield piece.subarray(0, bytesRead);
    }
  } catch (thrown) {
    if (thrown instanceof KekError) throw thrown;
    throw new KekError(
      "archive_unreadable",
      `${path} cannot be read (${(thrown as NodeJS.ErrnoException).code ?? messageOf(thrown)})`,
      "check the path, and that the user running this command may read the file",
    );
  } finally {
    await handle?.close();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function mustBeFree(target: string): Promise<void> {
  try {
    await lstat(target);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return;
    throw unwritable(target, thrown);
  }
  throw new KekError("archive_unwritable", `${target} exists already`, "name another file, or move that one away");
}

function noFile(path: string): KekError {
  return new KekError(
    "archive_unreadable",
    `${path} is not a file: an archive is read more than once`,
    "save the archive as a file, and name that",
  );
}

function unwritable(target: string, thrown: unknown): KekError {
  const why = (thrown as NodeJS.ErrnoException).code ?? messageOf(thrown);
  return new KekError(
    "archive_unwritable",
    `${target} cannot be written (${why})`,
    "name a file in a directory that this user may write to, with room for every record",
  );
}
