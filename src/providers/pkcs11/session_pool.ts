import { KekError } from "../../errors/errors.ts";
import type { LoginClaims } from "../login_claims.ts";
import type { KeyCanary, TokenCounts } from "../provider.ts";
import { Backoff } from "./backoff.ts";
import { LoginCoordinator } from "./login_coordinator.ts";
import { ModuleLock } from "./module_lock.ts";
import { type Operation, packOperations, unpackAnswers } from "./operation_frames.ts";
import { closedError, errorOf, hangingError, noSessionError } from "./session_errors.ts";
import { type SessionReply, SessionThread } from "./session_thread.ts";
import { ShareSize } from "./share_size.ts";
import type { Task, TaskValue } from "./tasks.ts";
import { TokenCounters } from "./token_counters.ts";
import type { TokenSettings } from "./token_settings.ts";
import { Width } from "./width.ts";

/**
 * The sessions of a token that this thread may use, each in a worker thread that blocks in the token's calls. Work waits in one
 * queue; an open session takes a share of it at a time, and has the next one at hand while it works. Sessions are opened as
 * work comes in and as far as that is of use. A session that the token does not give is asked for again after a backoff.
 * Administrative work (finding, making and checking keys) has a session of its own where the token gives one.
 */

/** How long a session goes on trying what the token does not do. Once it is known to be away, each call tries once. */
const RETRY_MS = 5000;
/** The share in work, and the next one. */
const SHARES_AHEAD = 2;
/** How many sessions are opened at a time, once one has shown that the token gives them. */
const OPENED_AT_ONCE = 4;

interface Job {
  run(session: SessionThread): Promise<void>;
  reject(error: Error): void;
}

interface Waiting {
  operation: Operation;
  resolve(data: Uint8Array): void;
  reject(error: Error): void;
}

export interface PoolOptions {
  /** Whether administrative work gets a session of its own. */
  separateTasks: boolean;
  claims: LoginClaims | undefined;
}

export class SessionPool {
  readonly #settings: TokenSettings;
  readonly #options: PoolOptions;
  readonly #logins: LoginCoordinator;
  readonly #queue: Waiting[] = [];
  /** Administrative work that the sessions of the work must do. */
  readonly #tasks: Job[] = [];
  readonly #sessions: SessionThread[] = [];
  #taskSession: SessionThread | undefined;
  readonly #known = new Map<number, KeyCanary | undefined>();
  readonly #width: Width;
  #limit: number;
  readonly #share = new ShareSize();
  #unavailable: KekError | undefined;
  /** Between attempts to open a session more than the token gave. */
  readonly #further = new Backoff();
  readonly #furtherForTasks = new Backoff();
  #closed = false;
  #planned = false;

  constructor(settings: TokenSettings, limit: number, options: PoolOptions) {
    this.#settings = settings;
    this.#options = options;
    this.#logins = new LoginCoordinator(settings, options.claims);
    this.#limit = limit;
    this.#width = new Width(limit);
  }

  /** How many sessions may be open. */
  get limit(): number {
    return this.#limit;
  }

  /** Lowers the limit to what the token gives. */
  atMost(limit: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, limit));
    if (this.#limit === 1) this.#lendTaskSession();
    this.#width.atMost(this.#workLimit);
  }

  load(version: number, canary: KeyCanary | undefined): void {
    this.#known.set(version, canary);
    for (const session of this.#all) session.send({ kind: "load", version, canary });
  }

  release(version: number): void {
    this.#known.delete(version);
    for (const session of this.#all) session.send({ kind: "release", version });
  }

  /** @throws KekError `hsm_away` and what else the operation meets. */
  async operate(operation: Operation): Promise<Uint8Array> {
    this.#refuseClosed();
    return await new Promise((resolve, reject) => {
      this.#queue.push({ operation, resolve, reject });
      this.#plan();
    });
  }

  /** @param retryForMs how long the session goes on trying. @throws KekError `hsm_away` and what else the task meets. */
  async perform<T extends Task>(task: T, retryForMs = RETRY_MS): Promise<TaskValue[T["do"]]> {
    this.#refuseClosed();
    return await new Promise<TaskValue[T["do"]]>((resolve, reject) => {
      const work = async (session: SessionThread) => {
        const reply = await session.ask({ kind: "task", task, retryForMs: Math.min(this.#retryForMs, retryForMs) }, []);
        if (reply.kind === "done") {
          this.#unavailable = undefined;
          resolve(reply.value as TaskValue[T["do"]]);
        } else if (reply.kind !== "no_session") reject(this.#noted(errorOf(reply)));
        else if (this.#withdraw(session)) {
          this.#tasks.push(job);
          this.#plan();
        } else reject(this.#noted(noSessionError(this.#settings.tokenLabel, reply.cause)));
      };
      const job: Job = { run: (session) => work(session).catch((thrown) => reject(this.#noted(thrown))), reject };
      const own = this.#forTasks();
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
      hung: this.#all.filter((session) => session.stuck).length,
      limit: this.#limit,
      unavailable: this.#unavailable !== undefined,
    };
  }

  /** Gives all sessions back; later calls open them again. The module stays initialised. */
  async rest(): Promise<void> {
    const kept = this.#all.find((session) => !session.stuck);
    const others = this.#all.filter((session) => session !== kept);
    this.#sessions.splice(0);
    this.#taskSession = undefined;
    if (kept !== undefined) this.#sessions.push(kept);
    await Promise.all([...others.map((session) => session.close()), kept?.ask({ kind: "rest" }, [])]);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#rejectAll(closedError());
    const all = this.#all;
    this.#sessions.splice(0);
    this.#taskSession = undefined;
    await Promise.all(all.map((session) => session.close()));
    await this.#logins.close();
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #retryForMs(): number {
    return this.#unavailable === undefined ? RETRY_MS : 0;
  }

  get #all(): SessionThread[] {
    return this.#taskSession === undefined ? [...this.#sessions] : [this.#taskSession, ...this.#sessions];
  }

  /** How many sessions the work may have. */
  get #workLimit(): number {
    return this.#taskSession === undefined ? this.#limit : this.#limit - 1;
  }

  /** The session for administrative work; undefined where the sessions of the work must do it. */
  #forTasks(): SessionThread | undefined {
    if (this.#taskSession?.dead) this.#taskSession = undefined;
    if (this.#taskSession !== undefined) return this.#taskSession.stuck ? undefined : this.#taskSession;
    const room = this.#options.separateTasks && this.#limit > 1 && this.#sessions.length < this.#limit;
    if (!room || !this.#furtherForTasks.over) return undefined;
    this.#taskSession = this.#start();
    this.#width.atMost(this.#workLimit);
    return this.#taskSession;
  }

  /** Work comes first: where the token gives one session, that one does everything. */
  #lendTaskSession(): SessionThread | undefined {
    const session = this.#taskSession;
    if (session === undefined || session.stuck) return undefined;
    this.#taskSession = undefined;
    this.#furtherForTasks.failed();
    this.#sessions.push(session);
    return session;
  }

  /** Calls that are made in one go are shared out together. */
  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    queueMicrotask(() => {
      this.#planned = false;
      this.#shareOut();
    });
  }

  #shareOut(): void {
    for (const session of this.#sessions.filter((each) => each.dead))
      this.#sessions.splice(this.#sessions.indexOf(session), 1);
    for (;;) {
      const idle = this.#tasks.length + this.#queue.length === 0;
      if (idle && this.#sessions.every(({ pending }) => pending === 0)) this.#width.idle();
      if (idle || this.#closed) return;
      const session = this.#next();
      if (session === undefined) return;
      const task = this.#tasks.shift();
      if (task !== undefined) this.#run(task.run(session));
      else this.#run(this.#send(session, this.#queue.splice(0, this.#share.of(this.#queue.length, this.#width))));
    }
  }

  /** The session that is to have the next share: the least busy of those that are open. Opens more while that is of use. */
  #next(): SessionThread | undefined {
    if (this.#further.over) this.#width.atMost(this.#workLimit);
    const able = this.#sessions.filter((session) => !session.stuck);
    const open = able.filter((session) => session.open).slice(0, this.#width.now);
    const opening = able.filter((session) => !session.open && session.pending > 0);
    const least = open.reduce<SessionThread | undefined>(
      (best, session) => (best === undefined || session.pending < best.pending ? session : best),
      undefined,
    );
    if (least?.pending === 0) return least;
    if (open.length === 0) return opening.length > 0 ? spare(opening[0]) : this.#firstSession();
    const wanted = open.length + opening.length < this.#width.now && opening.length < this.#openedAtOnce;
    if (wanted && this.#further.over) {
      const session = this.#closedOne();
      if (session !== undefined) {
        this.#run(this.#open(session));
        return this.#next();
      }
    }
    return spare(least);
  }

  /** Where the token gave none of late, one is asked for to see whether it does again. */
  get #openedAtOnce(): number {
    return this.#further.failing ? 1 : OPENED_AT_ONCE;
  }

  /** Where none is open there is none to wait for: one that opens its session takes work along. */
  #firstSession(): SessionThread | undefined {
    const session = this.#closedOne() ?? this.#lendTaskSession();
    // Every session there may be hangs in the token.
    if (session === undefined) this.#rejectAll(hangingError(this.#settings.tokenLabel));
    return session;
  }

  /** A thread without a session and without work; a new one where there may be more. */
  #closedOne(): SessionThread | undefined {
    const idle = this.#sessions.find((session) => !session.stuck && !session.open && session.pending === 0);
    if (idle !== undefined || this.#sessions.length >= this.#workLimit) return idle;
    const session = this.#start();
    this.#sessions.push(session);
    return session;
  }

  #rejectAll(error: KekError): void {
    this.#noted(error);
    for (const { reject } of [...this.#tasks.splice(0), ...this.#queue.splice(0)]) reject(error);
  }

  #run(work: Promise<void>): void {
    work.finally(() => this.#plan());
  }

  async #send(session: SessionThread, batch: Waiting[]): Promise<void> {
    const bytes = packOperations(batch.map(({ operation }) => operation));
    const asked = performance.now();
    let reply: SessionReply;
    try {
      reply = await session.ask({ kind: "operations", bytes, retryForMs: this.#retryForMs }, [bytes.buffer]);
    } catch (thrown) {
      // Not sent: the thread was dead before.
      if (bytes.length > 0) bytes.fill(0);
      this.#share.failed(batch.length, performance.now() - asked);
      for (const { reject } of batch) reject(this.#noted(thrown as Error));
      return;
    }
    if (reply.kind !== "answers") {
      for (const { reject } of batch) reject(this.#noted(errorOf(reply)));
      return;
    }
    this.#measure(session, batch.length, asked);
    const noSession: Waiting[] = [];
    unpackAnswers(reply.bytes).forEach((answer, index) => {
      const waiting = batch[index] as Waiting;
      if (answer === "no_session") noSession.push(waiting);
      else if ("error" in answer) waiting.reject(this.#noted(answer.error));
      else {
        this.#unavailable = undefined;
        waiting.resolve(answer.data);
      }
    });
    if (noSession.length === 0) return;
    if (this.#withdraw(session)) this.#queue.unshift(...noSession);
    else
      for (const { reject } of noSession) reject(this.#noted(noSessionError(this.#settings.tokenLabel, reply.cause)));
  }

  #measure(session: SessionThread, operations: number, asked: number): void {
    const now = performance.now();
    this.#share.done(operations, now - Math.max(asked, session.answeredAt));
    session.answeredAt = now;
    const able = this.#sessions.filter((each) => !each.stuck);
    const busy = able.filter((each) => each.open).slice(0, this.#width.now);
    // Shares that sessions of a wider time still have in hand would be counted for the narrower one.
    const settled = busy.length === this.#width.now && able.every((each) => busy.includes(each) || each.pending === 0);
    this.#width.done(operations, this.#queue.length > 0, settled, now);
  }

  /** The token gives no session for this thread now. @returns whether there are others to do its work. */
  #withdraw(session: SessionThread): boolean {
    if (session === this.#taskSession) {
      this.#taskSession = undefined;
      this.#furtherForTasks.failed();
      session.retire();
      return true;
    }
    const others = this.#sessions.filter(
      (other) => other !== session && !other.stuck && (other.open || other.pending > 0),
    );
    const lent = others.length === 0 ? this.#lendTaskSession() : undefined;
    if (lent !== undefined) others.push(lent);
    if (others.length === 0) return false;
    this.#further.failed();
    this.#width.atMost(others.length);
    return true;
  }

  #start(): SessionThread {
    const session = new SessionThread(this.#settings, {
      freed: () => this.#plan(),
      login: (message) => this.#logins.handle(message),
    });
    for (const [version, canary] of this.#known) session.send({ kind: "load", version, canary });
    return session;
  }

  /** One session more. Where that fails the thread is left without one, and tried again later. */
  async #open(session: SessionThread): Promise<void> {
    const reply = await session
      .ask({ kind: "task", task: { do: "open" }, retryForMs: 0 }, [])
      .catch((thrown) => this.#noted(thrown));
    if ("kind" in reply && reply.kind === "done") this.#further.worked();
    else if (this.#sessions.includes(session)) this.#withdraw(session);
  }

  #noted(error: Error): Error {
    if (error instanceof KekError && error.code === "hsm_away") this.#unavailable = error;
    return error;
  }

  #refuseClosed(): void {
    if (this.#closed) throw closedError();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function spare(session: SessionThread | undefined): SessionThread | undefined {
  return session !== undefined && session.pending < SHARES_AHEAD ? session : undefined;
}
