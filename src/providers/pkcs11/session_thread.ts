import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { threadEntry } from "../../config/runtime.ts";
import { KekError } from "../../errors/errors.ts";
import { type Answer, frameBytes, type SessionOperation, unpackAnswers, writeOperations } from "./operation_frames.ts";
import { type AnswerBell, OperationRing, REQUEST_BYTES } from "./operation_ring.ts";
import type { AnsweredMessage, SessionData, SessionReply, SessionRequest } from "./session_messages.ts";
import type { PermitMessage } from "./shared_permit.ts";
import { ThreadState } from "./thread_state.ts";
import type { TokenSettings } from "./token_settings.ts";

/** One session's thread, seen from the thread that gives it work. Requests are answered in the order in which they came. */

/** What became of a batch of operations. */
export interface BatchAnswer {
  answers: Answer[];
  /** The shortest time of one call into the module, in milliseconds; NaN where that was not measured. */
  callMs: number;
}

const CLOSE_LIMIT_MS = 2000;
/** How often within its limit a call is looked at. */
const LOOKS_A_LIMIT = 5;

interface Pending<T> {
  resolve(reply: T): void;
  reject(error: Error): void;
}

export interface SessionEvents {
  /** Answers may have come: of this session, and of others that share the bell. */
  answered(): void;
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
  readonly #ring = new OperationRing();
  /** By message, and in the ring. */
  readonly #asked: Pending<SessionReply>[] = [];
  readonly #batches: Pending<BatchAnswer>[] = [];
  /** Answers of both kinds that are no longer waited for. */
  #late = 0;
  #lateBatches = 0;
  #onClosed: (() => void) | undefined;
  #dead: Error | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  /** The call that it was in when it was last looked at, and since when. */
  #seen = { calls: -1, since: 0 };

  constructor(settings: TokenSettings, bell: AnswerBell, events: SessionEvents) {
    this.#settings = settings;
    this.#events = events;
    // Until it has said otherwise: it loads the module first.
    this.#state.starting = true;
    const entry = threadEntry("providers/pkcs11/session_worker.ts", import.meta.url);
    const workerData: SessionData = {
      settings,
      state: this.#state.memory,
      ring: this.#ring.memory,
      bell: bell.memory,
    };
    this.#worker = new Worker(entry, { workerData });
    this.#worker.on("message", (reply: SessionReply | PermitMessage | AnsweredMessage) => this.#received(reply));
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
    return this.#asked.length + this.#batches.length;
  }

  send(request: SessionRequest, transfer: ArrayBuffer[] = []): void {
    this.#ring.announceMessage();
    this.#worker.postMessage(request, transfer);
  }

  /** @throws KekError `hsm_unavailable` when a call into the module does not return within its limit. */
  async ask(request: SessionRequest, transfer: ArrayBuffer[]): Promise<SessionReply> {
    if (this.#dead !== undefined) throw this.#dead;
    return await new Promise((resolve, reject) => {
      this.#asked.push({ resolve, reject });
      this.send(request, transfer);
      this.#keepWatch();
    });
  }

  /** At most `REQUESTS_AHEAD` batches at a time. @throws KekError as `ask`. */
  async operate(operations: SessionOperation[], retryForMs: number): Promise<BatchAnswer> {
    const [first] = operations;
    if (first !== undefined && operations.length === 1 && frameBytes(first) > REQUEST_BYTES)
      return await this.#operateByMessage(first, retryForMs);
    if (this.#dead !== undefined) throw this.#dead;
    return await new Promise((resolve, reject) => {
      this.#batches.push({ resolve, reject });
      const parked = this.#ring.ask(retryForMs, (into) => writeOperations(operations, into));
      if (parked) this.send({ kind: "wake" });
      this.#keepWatch();
    });
  }

  /** Takes the answers that are in the ring. */
  takeAnswers(): void {
    for (let answer = this.#ring.take(); answer !== undefined; answer = this.#ring.take()) {
      const answers = unpackAnswers(answer.bytes);
      const batch = this.#lateBatches > 0 ? undefined : this.#batches.shift();
      if (batch === undefined) {
        for (const late of answers) if ("data" in late) late.data.fill(0);
        this.#cameLate("lateBatches");
      } else {
        this.#answered();
        batch.resolve({ answers, callMs: answer.callMs });
      }
    }
  }

  /** Gives the session back to the token. A thread that hangs is left to the end of the process. */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    this.#state.close();
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
    while (this.pending > 0) await sleep(20);
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

  #received(reply: SessionReply | PermitMessage | AnsweredMessage): void {
    if (reply.kind === "login" || reply.kind === "logged_in") {
      this.#events.login(reply);
      return;
    }
    if (reply.kind === "closed") {
      this.#onClosed?.();
      return;
    }
    if (reply.kind === "answered") {
      this.#events.answered();
      return;
    }
    const asked = this.#late > 0 ? undefined : this.#asked.shift();
    if (asked === undefined) {
      // There may be a data key in it.
      if (reply.kind === "answer") reply.bytes.fill(0);
      this.#cameLate("late");
      return;
    }
    this.#answered();
    asked.resolve(reply);
  }

  async #operateByMessage(operation: SessionOperation, retryForMs: number): Promise<BatchAnswer> {
    const bytes = new Uint8Array(frameBytes(operation));
    writeOperations([operation], bytes);
    const reply = await this.ask({ kind: "operation", bytes, retryForMs }, [bytes.buffer]);
    if (reply.kind !== "answer") throw new Error(`an HSM session answered ${reply.kind}`);
    return { answers: unpackAnswers(reply.bytes), callMs: Number.NaN };
  }

  /** The next request begins now. */
  #answered(): void {
    this.#seen = { calls: this.#state.calls, since: performance.now() };
    if (this.pending === 0) this.#watchNoMore();
  }

  /** An answer that is no longer waited for. After the last one the session is of use again. */
  #cameLate(kind: "late" | "lateBatches"): void {
    if (kind === "late") this.#late -= 1;
    else this.#lateBatches -= 1;
    if (this.#late + this.#lateBatches > 0 || this.#dead !== undefined) return;
    this.stuck = false;
    this.#events.freed();
  }

  #giveUp(limitMs: number): void {
    this.#watchNoMore();
    this.stuck = true;
    this.#late += this.#asked.length;
    this.#lateBatches += this.#batches.length;
    const error = new KekError(
      "hsm_unavailable",
      `token "${this.#settings.tokenLabel}" has not answered a call for ${limitMs / 1000} s`,
      "see that the HSM, its network and its daemon are up; this program retries until they are",
    );
    this.#rejectAll(error);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    this.stuck = true;
    this.#watchNoMore();
    this.#rejectAll(error);
    // It may have died after it had rung for others.
    this.#events.answered();
    this.#onClosed?.();
  }

  #rejectAll(error: Error): void {
    for (const { reject } of [...this.#asked.splice(0), ...this.#batches.splice(0)]) reject(error);
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
