import { closeSync, constants, fchownSync, fstatSync, openSync, type Stats, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { withTimeLimit } from "../util/time_limit.ts";
import { type AuditEntry, canonicalJson } from "./chain.ts";
import type { AuditSink } from "./sink.ts";

/** Audit events as JSON, one a line. */

export type StandardStream = "stdout" | "stderr";

/** A file that cannot be written stops the command: whoever named it wants every event there. */
export class JsonLinesFile implements AuditSink {
  readonly #path: string;

  /** @throws KekError `config_invalid`. */
  constructor(path: string) {
    this.#path = path;
    this.write([]);
  }

  /** @throws KekError `config_invalid`. */
  write(entries: readonly AuditEntry[]): void {
    try {
      append(this.#path, linesOf(entries));
    } catch (thrown) {
      throw new KekError(
        "config_invalid",
        `the audit file ${this.#path} cannot be written: ${messageOf(thrown)}`,
        "name a writable file in CERTAUTOPILOT_AUDIT_FILE, then run the same command again; no event is missing in audit_log",
      );
    }
  }

  async close(): Promise<void> {}
}

/** How long the end of a process is held up for a reader that is slow. */
const CLOSING_MS = 3000;

/** Standard output, for whoever collects it: a container's runtime, journald. A reader that is gone stops nothing. */
export class JsonLinesStream implements AuditSink {
  readonly #stream: NodeJS.WriteStream;
  readonly #onError: (error: Error) => void;
  #failed = false;
  /** Events that the stream has not taken yet. */
  #waiting = 0;
  #taken: (() => void) | undefined;
  readonly #log: Log;
  readonly #name: StandardStream;

  constructor(stream: StandardStream, log: Log) {
    this.#stream = process[stream];
    this.#name = stream;
    this.#log = log;
    this.#onError = ({ message }) => {
      if (!this.#failed) log.warn(`audit events no longer reach ${stream}: ${message}; audit_log has them`);
      this.#failed = true;
      this.#taken?.();
    };
    this.#stream.on("error", this.#onError);
  }

  write(entries: readonly AuditEntry[]): void {
    if (entries.length === 0 || this.#failed) return;
    this.#waiting += entries.length;
    this.#stream.write(linesOf(entries), () => {
      this.#waiting -= entries.length;
      if (this.#waiting === 0) this.#taken?.();
    });
  }

  /** A pipe holds 64 KiB; the rest is lost when the process ends before its reader has come so far. */
  async close(): Promise<void> {
    if (this.#waiting > 0 && !this.#failed) {
      const taken = new Promise<void>((resolve) => {
        this.#taken = resolve;
      });
      await withTimeLimit(CLOSING_MS, taken, () => undefined);
      if (this.#waiting > 0 && !this.#failed)
        this.#log.warn(`${this.#waiting} audit events did not reach ${this.#name} whole; audit_log has them`);
    }
    this.#stream.off("error", this.#onError);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function append(path: string, text: string): void {
  const owner = process.getuid?.() === 0 ? statSync(dirname(path)) : undefined;
  const another = owner !== undefined && owner.uid !== 0 ? owner : undefined;
  const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT;
  const descriptor = openSync(path, another === undefined ? flags : flags | constants.O_NOFOLLOW, 0o600);
  try {
    if (another !== undefined) giveTo(another, descriptor);
    writeFileSync(descriptor, text);
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Root's commands and a service of another user write one file: it is that user's, as its directory is. What that user has
 * put there in its place is not written to by root.
 */
function giveTo({ uid, gid }: Stats, descriptor: number): void {
  const file = fstatSync(descriptor);
  if (!file.isFile() || file.nlink !== 1) throw new Error("it is no plain file of its directory's owner");
  if (file.uid === 0 && file.size === 0) fchownSync(descriptor, uid, gid);
}

function linesOf(entries: readonly AuditEntry[]): string {
  return entries.map((entry) => `${canonicalJson(entry)}\n`).join("");
}
