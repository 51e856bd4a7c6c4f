import { Worker } from "node:worker_threads";
import { threadEntry } from "../../config/entry_points.ts";
import { type ErrorCode, KekError } from "../../errors/errors.ts";
import type { Proof } from "../provider.ts";
import type { TokenSettings } from "./session.ts";
import type { Task, TaskValue } from "./tasks.ts";

/** One session's thread, seen from the thread that gives it work. Requests are answered in the order in which they came. */

export type SessionRequest =
  | { kind: "operations"; bytes: Uint8Array; patienceMs: number }
  | { kind: "task"; task: Task; patienceMs: number }
  | { kind: "know"; version: number; proof: Proof | undefined }
  | { kind: "forget"; version: number }
  | { kind: "close" };

export type SessionReply =
  | { kind: "answers"; bytes: Uint8Array }
  | { kind: "done"; value: TaskValue[Task["do"]] }
  | { kind: "failed"; error: ToldError }
  | { kind: "crowded" }
  | { kind: "closed" };

/** Errors do not keep their class between threads. */
export interface ToldError {
  code: ErrorCode;
  message: string;
  hint: string;
}

/** How long a call may take altogether before it is given up: a thread that hangs in the token cannot be interrupted. */
export const CALL_LIMIT_MS = 30_000;
const CLOSE_LIMIT_MS = 2000;

interface Asked {
  resolve(reply: SessionReply): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

export class SessionThread {
  /** It has been in one call for so long that nobody waits for it any more, or it is dead. */
  stuck = false;
  /** Whether it has answered once: until then it is still opening its session. */
  proven = false;
  /** When it last answered with operations, by the monotonic clock. */
  answeredAt = 0;
  readonly #worker: Worker;
  readonly #tokenLabel: string;
  readonly #onFreed: () => void;
  readonly #asked: Asked[] = [];
  /** Answers that nobody waits for any more. */
  #late = 0;
  #onClosed: (() => void) | undefined;
  #dead: Error | undefined;

  /** @param onFreed is called when a thread that was stuck can be used again. */
  constructor(settings: TokenSettings, onFreed: () => void) {
    this.#tokenLabel = settings.tokenLabel;
    this.#onFreed = onFreed;
    const entry = threadEntry("providers/pkcs11/session_worker.ts", import.meta.url);
    this.#worker = new Worker(entry, { workerData: settings });
    this.#worker.on("message", (reply: SessionReply) => this.#received(reply));
    this.#worker.on("error", (error: Error) => this.#died(unloadable(error) ?? error));
    this.#worker.on("exit", () => this.#died(new Error("the thread of an HSM session ended")));
  }

  /** Whether its thread has ended, or was left alone. */
  get dead(): boolean {
    return this.#dead !== undefined;
  }

  /** Requests that it has not answered yet. */
  get pending(): number {
    return this.#asked.length;
  }

  send(request: SessionRequest, transfer: ArrayBuffer[] = []): void {
    this.#worker.postMessage(request, transfer);
  }

  /** @throws KekError `hsm_away` when there is no answer in time. */
  async ask(request: SessionRequest, transfer: ArrayBuffer[], limitMs = CALL_LIMIT_MS): Promise<SessionReply> {
    if (this.#dead !== undefined) throw this.#dead;
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#giveUp(limitMs), limitMs);
      this.#asked.push({ resolve, reject, timer });
      this.send(request, transfer);
    });
  }

  /** Gives the session back to the token. A thread that hangs is left to the end of the process. */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    const answered = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), this.stuck ? 0 : CLOSE_LIMIT_MS);
      this.#onClosed = () => {
        clearTimeout(timer);
        resolve(true);
      };
      this.send({ kind: "close" });
    });
    // One that is inside the token is not ended by force: it would leave the gate shut for the others.
    if (answered) await this.#worker.terminate();
    else this.#worker.unref();
    this.#died(new KekError("closed", "the session of the HSM is closed", "this process is ending"));
  }

  /** Closes it once it has answered everything. */
  async retire(): Promise<void> {
    while (this.pending > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    await this.close();
  }

  #received(reply: SessionReply): void {
    if (reply.kind === "closed") {
      this.#onClosed?.();
      return;
    }
    this.proven = true;
    const asked = this.#late > 0 ? undefined : this.#asked.shift();
    // There may be data keys in an answer that nobody waits for any more.
    if (asked === undefined && reply.kind === "answers") reply.bytes.fill(0);
    if (this.#late > 0) {
      this.#late -= 1;
      if (this.#late > 0 || this.#dead !== undefined) return;
      // It came back: the session is of use again.
      this.stuck = false;
      this.#onFreed();
      return;
    }
    if (asked === undefined) return;
    clearTimeout(asked.timer);
    asked.resolve(reply);
  }

  #giveUp(limitMs: number): void {
    this.stuck = true;
    const waiting = this.#asked.splice(0);
    this.#late += waiting.length;
    const error = new KekError(
      "hsm_away",
      `token "${this.#tokenLabel}" has not answered a call for ${limitMs / 1000} s`,
      "see that the HSM, its network and its daemon are up; this program goes on by itself when they are",
    );
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(error);
    }
  }

  #died(error: Error): void {
    this.#dead ??= error;
    this.stuck = true;
    for (const { reject, timer } of this.#asked.splice(0)) {
      clearTimeout(timer);
      reject(error);
    }
    this.#onClosed?.();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** The compiled program unpacks its addon into a temporary directory and loads it from there; many hosts mount /tmp noexec. */
function unloadable({ message }: Error): KekError | undefined {
  const file = /^(\S+\.node): failed to map segment/.exec(message)?.[1];
  if (file === undefined) return undefined;
  return new KekError(
    "hsm_module",
    `${file} cannot be loaded: its directory is mounted noexec`,
    "set BUN_TMPDIR to a directory of this user's own that may execute, as in BUN_TMPDIR=/root certautopilot …",
  );
}
