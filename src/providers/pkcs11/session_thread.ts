import { Worker } from "node:worker_threads";
import { threadEntry } from "../../config/entry_points.ts";
import { type ErrorCode, KekError } from "../../errors/errors.ts";
import type { KeyCanary } from "../provider.ts";
import type { PermitMessage } from "./shared_permit.ts";
import type { Task, TaskValue } from "./tasks.ts";
import { ThreadState } from "./thread_state.ts";
import type { TokenSettings } from "./token_settings.ts";

/** One session's thread, seen from the thread that gives it work. Requests are answered in the order in which they came. */

export type SessionRequest =
  | { kind: "operations"; bytes: Uint8Array; retryForMs: number }
  | { kind: "task"; task: Task; retryForMs: number }
  | { kind: "load"; version: number; canary: KeyCanary | undefined }
  | { kind: "release"; version: number }
  /** Closes the session and keeps the module. */
  | { kind: "rest" }
  | { kind: "close" };

export type SessionReply =
  | { kind: "answers"; bytes: Uint8Array; cause: string }
  | { kind: "done"; value: TaskValue[Task["do"]] }
  | { kind: "failed"; error: SerializedError }
  | { kind: "no_session"; cause: string }
  | { kind: "rested" }
  | { kind: "closed" };

/** What a session's thread is made from. */
export interface SessionData {
  settings: TokenSettings;
  state: SharedArrayBuffer;
}

/** Errors do not keep their class between threads. */
export interface SerializedError {
  code: ErrorCode;
  message: string;
  hint: string;
}

const CLOSE_LIMIT_MS = 2000;
/** How often within its limit a call is looked at. */
const LOOKS_A_LIMIT = 5;

interface Asked {
  resolve(reply: SessionReply): void;
  reject(error: Error): void;
}

export interface SessionEvents {
  /** A thread that hung can be used again. */
  freed(): void;
  /** Its thread wants to log in, or has. */
  login(message: PermitMessage): void;
}

export class SessionThread {
  /** It has been in one call for so long that nobody waits for it any more, or it is dead. */
  stuck = false;
  /** When it last answered with operations, by the monotonic clock. */
  answeredAt = 0;
  readonly #worker: Worker;
  readonly #settings: TokenSettings;
  readonly #events: SessionEvents;
  readonly #state = new ThreadState();
  readonly #asked: Asked[] = [];
  /** Answers that nobody waits for any more. */
  #late = 0;
  #onClosed: (() => void) | undefined;
  #dead: Error | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  /** The call that it was in when it was last looked at, and since when. */
  #seen = { calls: -1, since: 0 };

  constructor(settings: TokenSettings, events: SessionEvents) {
    this.#settings = settings;
    this.#events = events;
    // Until it has said otherwise: it loads the module first.
    this.#state.starting = true;
    const entry = threadEntry("providers/pkcs11/session_worker.ts", import.meta.url);
    const workerData: SessionData = { settings, state: this.#state.memory };
    this.#worker = new Worker(entry, { workerData });
    this.#worker.on("message", (reply: SessionReply | PermitMessage) => this.#received(reply));
    this.#worker.on("error", (error: Error) => this.#died(unloadable(error) ?? error));
    this.#worker.on("exit", () => this.#died(new Error("the thread of an HSM session ended")));
  }

  /** Whether it has a session. */
  get open(): boolean {
    return this.#state.open && !this.stuck;
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

  /** @throws KekError `hsm_away` when a call into the module does not return within its limit. */
  async ask(request: SessionRequest, transfer: ArrayBuffer[]): Promise<SessionReply> {
    if (this.#dead !== undefined) throw this.#dead;
    return await new Promise((resolve, reject) => {
      this.#asked.push({ resolve, reject });
      this.send(request, transfer);
      this.#keepWatch();
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
    // One that is inside the token is not ended by force: it would keep the module lock from the others.
    if (answered) await this.#worker.terminate();
    else this.#worker.unref();
    this.#died(new KekError("closed", "the session of the HSM is closed", "this process is ending"));
  }

  /** Closes it once it has answered everything. */
  async retire(): Promise<void> {
    while (this.pending > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    await this.close();
  }

  /** Looks at the call that the thread is in, while somebody waits for it. */
  #keepWatch(): void {
    if (this.#watch !== undefined) return;
    const { startMs, workMs } = this.#settings.limits;
    this.#seen = { calls: this.#state.calls, since: performance.now() };
    this.#watch = setInterval(
      () => {
        const now = performance.now();
        const { calls } = this.#state;
        if (calls !== this.#seen.calls) this.#seen = { calls, since: now };
        const limitMs = this.#state.starting ? startMs : workMs;
        if (now - this.#seen.since >= limitMs) this.#giveUp(limitMs);
      },
      Math.max(1, Math.min(startMs, workMs) / LOOKS_A_LIMIT),
    );
  }

  #watchNoMore(): void {
    clearInterval(this.#watch);
    this.#watch = undefined;
  }

  #received(reply: SessionReply | PermitMessage): void {
    if (reply.kind === "login" || reply.kind === "logged_in") {
      this.#events.login(reply);
      return;
    }
    if (reply.kind === "closed") {
      this.#onClosed?.();
      return;
    }
    const asked = this.#late > 0 ? undefined : this.#asked.shift();
    // There may be data keys in an answer that nobody waits for any more.
    if (asked === undefined && reply.kind === "answers") reply.bytes.fill(0);
    if (this.#late > 0) {
      this.#late -= 1;
      if (this.#late > 0 || this.#dead !== undefined) return;
      // It came back: the session is of use again.
      this.stuck = false;
      this.#events.freed();
      return;
    }
    if (asked === undefined) return;
    // The next request begins now.
    this.#seen = { calls: this.#state.calls, since: performance.now() };
    if (this.pending === 0) this.#watchNoMore();
    asked.resolve(reply);
  }

  #giveUp(limitMs: number): void {
    this.#watchNoMore();
    this.stuck = true;
    const waiting = this.#asked.splice(0);
    this.#late += waiting.length;
    const error = new KekError(
      "hsm_away",
      `token "${this.#settings.tokenLabel}" has not answered a call for ${limitMs / 1000} s`,
      "see that the HSM, its network and its daemon are up; this program retries until they are",
    );
    for (const { reject } of waiting) reject(error);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    this.stuck = true;
    this.#watchNoMore();
    for (const { reject } of this.#asked.splice(0)) reject(error);
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
