import { Worker } from "node:worker_threads";
import { threadEntry } from "../../config/entry_points.ts";
import { type ErrorCode, KekError } from "../../errors/errors.ts";
import type { Proof } from "../provider.ts";
import { type Operation, packOperations, unpackAnswers } from "./frames.ts";
import type { TokenSettings } from "./session.ts";
import type { Task, TaskValue } from "./tasks.ts";

/**
 * The sessions of a token that this thread may use, each in a worker thread that blocks in the token's calls. Sessions are
 * opened as work comes in, up to the limit. Work waits in one queue; a free session takes its share of it in one message.
 */

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

export interface ToldError {
  code: ErrorCode;
  message: string;
  hint: string;
}

/** How long a session goes on trying what the token does not do. Once it is known to be away, each call tries once. */
const PATIENCE_MS = 5000;
/** How long a call may take altogether before it is given up: a thread that hangs in the token cannot be interrupted. */
const CALL_LIMIT_MS = 30_000;
/** A session takes no more than this at once, so that the others find work too. */
const MOST_AT_ONCE = 64;
const CLOSE_LIMIT_MS = 2000;

interface Waiting {
  operation: Operation;
  resolve(data: Uint8Array): void;
  reject(error: Error): void;
}

export class SessionPool {
  readonly #settings: TokenSettings;
  readonly #queue: Waiting[] = [];
  readonly #tasks: ((session: Session) => Promise<void>)[] = [];
  readonly #sessions: Session[] = [];
  readonly #known = new Map<number, Proof | undefined>();
  #limit: number;
  #away: KekError | undefined;
  #closed = false;
  #planned = false;

  constructor(settings: TokenSettings, limit: number) {
    this.#settings = settings;
    this.#limit = limit;
  }

  /** How many sessions may be open. */
  get limit(): number {
    return this.#limit;
  }

  /** Lowers the limit to what the token gives. */
  atMost(limit: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, limit));
  }

  /** Why the last thing that was asked of the token was not done, while it is away. */
  get away(): KekError | undefined {
    return this.#away;
  }

  know(version: number, proof: Proof | undefined): void {
    this.#known.set(version, proof);
    for (const session of this.#sessions) session.send({ kind: "know", version, proof });
  }

  forget(version: number): void {
    this.#known.delete(version);
    for (const session of this.#sessions) session.send({ kind: "forget", version });
  }

  knows(version: number): boolean {
    return this.#known.has(version);
  }

  /** @throws KekError `hsm_away` and what else the operation meets. */
  async operate(operation: Operation): Promise<Uint8Array> {
    this.#refuseClosed();
    return await new Promise((resolve, reject) => {
      this.#queue.push({ operation, resolve, reject });
      this.#plan();
    });
  }

  async perform<T extends Task>(task: T): Promise<TaskValue[T["do"]]> {
    this.#refuseClosed();
    return await new Promise<TaskValue[T["do"]]>((resolve, reject) => {
      const job = async (session: Session) => {
        const reply = await session.ask({ kind: "task", task, patienceMs: this.#patience }, []);
        if (reply.kind === "done") {
          this.#away = undefined;
          resolve(reply.value as TaskValue[T["do"]]);
        } else if (reply.kind === "crowded" && this.#shrink(session)) this.#tasks.push(job);
        else reject(this.#noted(errorOf(reply)));
      };
      this.#tasks.push((session) => job(session).catch(reject));
      this.#plan();
    });
  }

  /** Gives all sessions back; the next call opens one again. */
  async rest(): Promise<void> {
    await Promise.all(this.#sessions.splice(0).map((session) => session.close()));
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const { reject } of this.#queue.splice(0)) reject(closedError());
    await this.rest();
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #patience(): number {
    return this.#away === undefined ? PATIENCE_MS : 0;
  }

  /** Calls that are made in one go are shared out together. */
  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      this.#share();
    });
  }

  #share(): void {
    const open = this.#sessions.filter((session) => !session.stuck).length;
    const idle = this.#sessions.filter((session) => session.idle);
    const wanted = this.#queue.length + this.#tasks.length - idle.length;
    for (let more = Math.min(wanted, this.#limit - open); more > 0 && !this.#closed; more -= 1)
      idle.push(this.#start());
    for (const session of idle) {
      const task = this.#tasks.shift();
      if (task !== undefined) this.#run(session, task(session));
      else if (this.#queue.length > 0) {
        const share = Math.min(MOST_AT_ONCE, Math.ceil(this.#queue.length / this.#limit));
        this.#run(session, this.#send(session, this.#queue.splice(0, share)));
      }
    }
  }

  #run(session: Session, work: Promise<void>): void {
    session.idle = false;
    work.finally(() => {
      session.idle = !session.stuck;
      this.#plan();
    });
  }

  async #send(session: Session, batch: Waiting[]): Promise<void> {
    const bytes = packOperations(batch.map(({ operation }) => operation));
    let reply: SessionReply;
    try {
      reply = await session.ask({ kind: "operations", bytes, patienceMs: this.#patience }, [bytes.buffer]);
    } catch (thrown) {
      for (const { reject } of batch) reject(this.#noted(thrown as Error));
      return;
    }
    if (reply.kind !== "answers") {
      for (const { reject } of batch) reject(this.#noted(errorOf(reply)));
      return;
    }
    const crowded: Waiting[] = [];
    unpackAnswers(reply.bytes).forEach((answer, index) => {
      const waiting = batch[index] as Waiting;
      if (answer === "crowded") crowded.push(waiting);
      else if ("error" in answer) waiting.reject(this.#noted(answer.error));
      else {
        this.#away = undefined;
        waiting.resolve(answer.data);
      }
    });
    if (crowded.length === 0) return;
    if (this.#shrink(session)) this.#queue.unshift(...crowded);
    else for (const { reject } of crowded) reject(this.#noted(crowdedError(this.#settings.tokenLabel)));
  }

  /** The token gives no session for this thread. @returns whether there are others to do its work. */
  #shrink(session: Session): boolean {
    const others = this.#sessions.filter((other) => other !== session && !other.stuck).length;
    if (others === 0) return false;
    this.#sessions.splice(this.#sessions.indexOf(session), 1);
    session.close();
    this.atMost(others);
    return true;
  }

  #start(): Session {
    const session = new Session(this.#settings, () => this.#plan());
    this.#sessions.push(session);
    for (const [version, proof] of this.#known) session.send({ kind: "know", version, proof });
    return session;
  }

  #noted(error: Error): Error {
    if (error instanceof KekError && error.code === "hsm_away") this.#away = error;
    return error;
  }

  #refuseClosed(): void {
    if (this.#closed) throw closedError();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** One worker thread. It answers one request at a time. */
class Session {
  idle = true;
  /** It has been in one call for so long that nobody waits for it any more. */
  stuck = false;
  readonly #worker: Worker;
  readonly #tokenLabel: string;
  readonly #onFreed: () => void;
  #answer: ((reply: SessionReply) => void) | undefined;
  #fail: ((error: Error) => void) | undefined;
  #onClosed: (() => void) | undefined;
  #dead: Error | undefined;

  constructor(settings: TokenSettings, onFreed: () => void) {
    this.#tokenLabel = settings.tokenLabel;
    this.#onFreed = onFreed;
    this.#worker = new Worker(threadEntry("providers/pkcs11/session_worker.ts", import.meta.url), {
      workerData: settings,
    });
    this.#worker.on("message", (reply: SessionReply) => this.#received(reply));
    this.#worker.on("error", (error: Error) => this.#died(error));
    this.#worker.on("exit", () => this.#died(new Error("the thread of an HSM session ended")));
  }

  send(request: SessionRequest, transfer: ArrayBuffer[] = []): void {
    this.#worker.postMessage(request, transfer);
  }

  async ask(request: SessionRequest, transfer: ArrayBuffer[]): Promise<SessionReply> {
    if (this.#dead !== undefined) throw this.#dead;
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.stuck = true;
        reject(stuckError(this.#tokenLabel));
      }, CALL_LIMIT_MS);
      this.#answer = (reply) => {
        clearTimeout(timer);
        resolve(reply);
      };
      this.#fail = (error) => {
        clearTimeout(timer);
        reject(error);
      };
      this.send(request, transfer);
    });
  }

  /** Gives the session back to the token. A thread that hangs is left to the end of the process. */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.stuck ? 0 : CLOSE_LIMIT_MS);
      this.#onClosed = () => {
        clearTimeout(timer);
        resolve();
      };
      this.send({ kind: "close" });
    });
    this.#dead = closedError();
    if (this.stuck) this.#worker.unref();
    else await this.#worker.terminate();
  }

  #received(reply: SessionReply): void {
    if (reply.kind === "closed") {
      this.#onClosed?.();
      return;
    }
    if (this.stuck) {
      // It came back: its late answer is nobody's, the session is of use again.
      this.stuck = false;
      this.idle = true;
      this.#onFreed();
      return;
    }
    this.#answer?.(reply);
  }

  #died(error: Error): void {
    this.#dead ??= error;
    this.stuck = true;
    this.#fail?.(error);
    this.#onClosed?.();
  }
}

function errorOf(reply: SessionReply): Error {
  if (reply.kind === "failed") return new KekError(reply.error.code, reply.error.message, reply.error.hint);
  return new Error(`an HSM session answered ${reply.kind}`);
}

function closedError(): KekError {
  return new KekError("closed", "the sessions of the HSM are closed", "this process is ending");
}

function crowdedError(tokenLabel: string): KekError {
  return new KekError(
    "hsm_away",
    `token "${tokenLabel}" has no session left for this process`,
    "close other users of the token, or let each use fewer: --hsm-sessions, encryption.pkcs11.sessions",
  );
}

function stuckError(tokenLabel: string): KekError {
  return new KekError(
    "hsm_away",
    `token "${tokenLabel}" has not answered a call for ${CALL_LIMIT_MS / 1000} s`,
    "see that the HSM, its network and its daemon are up; this program goes on by itself when they are",
  );
}
