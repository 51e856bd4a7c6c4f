import { availableParallelism } from "node:os";
import { KekError } from "../../errors/errors.ts";
import type { LoginClaims } from "../login_claims.ts";
import type { KeyCanary, TokenCounts } from "../provider.ts";
import { LoginCoordinator } from "./login_coordinator.ts";
import { ModuleLock } from "./module_lock.ts";
import { frameBytes, type SessionOperation } from "./operation_frames.ts";
import { MOST_OPERATIONS, REQUEST_BYTES } from "./operation_ring.ts";
import { OperationTiming } from "./operation_timing.ts";
import { closedError, hangingError, noSessionError } from "./session_errors.ts";
import type { SessionReply } from "./session_messages.ts";
import { SessionPool } from "./session_pool.ts";
import type { BatchAnswer, SessionThread } from "./session_thread.ts";
import type { Task, TaskValue } from "./tasks.ts";
import { TokenCounters } from "./token_counters.ts";
import type { TokenSettings } from "./token_settings.ts";

/**
 * The work for a token. It waits in one queue; an open session takes a batch of it at a time, and has the next one at hand while
 * it works. Each session is a worker thread that blocks in the token's calls.
 */

/** How long a session retries what the token does not do. While the token is unavailable, each call tries once. */
const RETRY_MS = 5000;

interface Job {
  run(session: SessionThread): Promise<void>;
  reject(error: Error): void;
}

interface Waiting {
  operation: SessionOperation;
  resolve(data: Uint8Array): void;
  reject(error: Error): void;
}

export interface PoolOptions {
  /** Whether administrative work gets a session of its own. */
  separateTasks: boolean;
  claims: LoginClaims | undefined;
}

export class WorkQueue {
  readonly #settings: TokenSettings;
  readonly #logins: LoginCoordinator;
  readonly #sessions: SessionPool;
  readonly #timing = new OperationTiming(availableParallelism());
  readonly #queue: Waiting[] = [];
  /** Administrative work that the sessions of the work must do. */
  readonly #tasks: Job[] = [];
  #unavailable: KekError | undefined;
  #closed = false;
  #planned = false;

  constructor(settings: TokenSettings, limit: number, { separateTasks, claims }: PoolOptions) {
    this.#settings = settings;
    this.#logins = new LoginCoordinator(settings, claims);
    this.#sessions = new SessionPool(settings, limit, {
      separateTasks,
      logins: this.#logins,
      changed: () => this.#plan(),
    });
  }

  /** How many sessions may be open. */
  get limit(): number {
    return this.#sessions.limit;
  }

  /** Lowers the limit to what the token gives. */
  atMost(limit: number): void {
    this.#sessions.atMost(limit);
  }

  load(version: number, canary: KeyCanary | undefined): void {
    this.#sessions.load(version, canary);
  }

  release(version: number): void {
    this.#sessions.release(version);
  }

  /** @throws KekError `hsm_unavailable` and what else the operation meets. */
  operate(operation: SessionOperation): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw closedError();
      this.#queue.push({ operation, resolve, reject });
      this.#plan();
    });
  }

  /** @param retryForMs how long the session retries. @throws KekError `hsm_unavailable` and what else the task meets. */
  async perform<T extends Task>(task: T, retryForMs = RETRY_MS): Promise<TaskValue[T["do"]]> {
    if (this.#closed) throw closedError();
    return await new Promise<TaskValue[T["do"]]>((resolve, reject) => {
      const work = async (session: SessionThread) => {
        const request = { kind: "task", task, retryForMs: Math.min(this.#retryForMs, retryForMs) } as const;
        const reply = await session.ask(request, []);
        if (reply.kind === "done") {
          this.#unavailable = undefined;
          resolve(reply.value as TaskValue[T["do"]]);
        } else if (reply.kind !== "no_session") reject(this.#noted(errorOf(reply)));
        else if (this.#sessions.withdraw(session)) {
          this.#tasks.push(job);
          this.#plan();
        } else reject(this.#noted(noSessionError(this.#settings.tokenLabel, reply.cause)));
      };
      const job: Job = { run: (session) => work(session).catch((thrown) => reject(this.#noted(thrown))), reject };
      const own = this.#sessions.forTasks();
      if (own !== undefined) this.#run(job.run(own));
      else {
        this.#tasks.push(job);
        this.#plan();
      }
    });
  }

  counts(): TokenCounts {
    return {
      ...new TokenCounters(this.#settings.counters).read(),
      renewals: new ModuleLock(this.#settings.moduleLock).epoch,
      hung: this.#sessions.hung,
      limit: this.limit,
      unavailable: this.#unavailable !== undefined,
    };
  }

  /** Gives all sessions back; later calls open them again. The module stays initialised. */
  async rest(): Promise<void> {
    await this.#sessions.rest();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#rejectAll(closedError());
    await this.#sessions.close();
    await this.#logins.close();
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #retryForMs(): number {
    return this.#unavailable === undefined ? RETRY_MS : 0;
  }

  /** Calls that are made together are shared out together. */
  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      this.#shareOut();
    });
  }

  #shareOut(): void {
    while (!this.#closed && this.#tasks.length + this.#queue.length > 0) {
      const wanted = this.#timing.sessions(this.#sessions.workLimit);
      const session = this.#sessions.next(wanted);
      if (session === "busy") return;
      if (session === "hung") {
        this.#rejectAll(hangingError(this.#settings.tokenLabel));
        return;
      }
      const task = this.#tasks.shift();
      this.#run(task === undefined ? this.#send(session, this.#nextBatch(wanted)) : task.run(session));
    }
  }

  #nextBatch(sessions: number): Waiting[] {
    const most = Math.min(MOST_OPERATIONS, this.#timing.batch(this.#queue.length, sessions));
    let count = 0;
    let bytes = 0;
    for (; count < most; count += 1) {
      bytes += frameBytes((this.#queue[count] as Waiting).operation);
      // One that is larger than the ring goes alone.
      if (bytes > REQUEST_BYTES && count > 0) break;
    }
    return this.#queue.splice(0, count);
  }

  #rejectAll(error: KekError): void {
    this.#noted(error);
    for (const { reject } of [...this.#tasks.splice(0), ...this.#queue.splice(0)]) reject(error);
  }

  #run(work: Promise<void>): void {
    work.finally(() => this.#plan());
  }

  async #send(session: SessionThread, batch: Waiting[]): Promise<void> {
    const asked = performance.now();
    let reply: BatchAnswer;
    try {
      const operations = batch.map(({ operation }) => operation);
      reply = await session.operate(operations, this.#retryForMs);
    } catch (thrown) {
      this.#timing.failed(batch.length, performance.now() - asked);
      for (const { reject } of batch) reject(this.#noted(thrown as Error));
      return;
    }
    const now = performance.now();
    this.#timing.done(batch.length, now - Math.max(asked, session.answeredAt), reply.callMs);
    session.answeredAt = now;
    const left: Waiting[] = [];
    let cause = "";
    reply.answers.forEach((answer, index) => {
      const waiting = batch[index] as Waiting;
      if ("data" in answer) {
        this.#unavailable = undefined;
        waiting.resolve(answer.data);
      } else if ("error" in answer) waiting.reject(this.#noted(answer.error));
      else {
        cause = answer.noSession;
        left.push(waiting);
      }
    });
    if (left.length === 0) return;
    if (this.#sessions.withdraw(session)) this.#queue.unshift(...left);
    else for (const { reject } of left) reject(this.#noted(noSessionError(this.#settings.tokenLabel, cause)));
  }

  #noted(error: Error): Error {
    if (error instanceof KekError && error.code === "hsm_unavailable") this.#unavailable = error;
    return error;
  }
}

function errorOf(reply: SessionReply): Error {
  if (reply.kind === "failed") return new KekError(reply.error.code, reply.error.message, reply.error.hint);
  return new Error(`an HSM session answered ${reply.kind}`);
}
