import { KekError } from "../../errors/errors.ts";
import type { Proof, TokenCounts } from "../provider.ts";
import { type Operation, packOperations, unpackAnswers } from "./frames.ts";
import { Gate } from "./gate.ts";
import type { TokenSettings } from "./session.ts";
import { closedError, crowdedError, errorOf, hangingError } from "./session_errors.ts";
import { CALL_LIMIT_MS, type SessionReply, SessionThread } from "./session_thread.ts";
import { ShareSize } from "./share_size.ts";
import { TokenTally } from "./tally.ts";
import type { Task, TaskValue } from "./tasks.ts";
import { Width } from "./width.ts";

/**
 * The sessions of a token that this thread may use, each in a worker thread that blocks in the token's calls. Sessions are
 * opened as work comes in and as far as that is of use. Work waits in one queue; a session takes a share of it at a time, and
 * has the next one at hand while it works.
 */

/** How long a session goes on trying what the token does not do. Once it is known to be away, each call tries once. */
const PATIENCE_MS = 5000;
/** How long after the token had no session left it is asked for more. */
const CROWDED_MS = 10_000;
/** The share in work, and the next one. */
const SHARES_AHEAD = 2;
/** How many sessions are opened at a time, once one has shown that it can be done. */
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

export class SessionPool {
  readonly #settings: TokenSettings;
  readonly #queue: Waiting[] = [];
  readonly #tasks: Job[] = [];
  readonly #sessions: SessionThread[] = [];
  readonly #known = new Map<number, Proof | undefined>();
  readonly #width: Width;
  #limit: number;
  readonly #share = new ShareSize();
  #away: KekError | undefined;
  /** When the token last had no session to give. */
  #crowdedAt: number | undefined;
  #closed = false;
  #planned = false;

  constructor(settings: TokenSettings, limit: number) {
    this.#settings = settings;
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
    this.#width.atMost(this.#limit);
  }

  know(version: number, proof: Proof | undefined): void {
    this.#known.set(version, proof);
    for (const session of this.#sessions) session.send({ kind: "know", version, proof });
  }

  forget(version: number): void {
    this.#known.delete(version);
    for (const session of this.#sessions) session.send({ kind: "forget", version });
  }

  /** @throws KekError `hsm_away` and what else the operation meets. */
  async operate(operation: Operation): Promise<Uint8Array> {
    this.#refuseClosed();
    return await new Promise((resolve, reject) => {
      this.#queue.push({ operation, resolve, reject });
      this.#plan();
    });
  }

  /** @param patienceMs how long the session goes on trying. @param limitMs how long the call may hang in the token. */
  async perform<T extends Task>(
    task: T,
    patienceMs = PATIENCE_MS,
    limitMs = CALL_LIMIT_MS,
  ): Promise<TaskValue[T["do"]]> {
    this.#refuseClosed();
    return await new Promise<TaskValue[T["do"]]>((resolve, reject) => {
      const work = async (session: SessionThread) => {
        const reply = await session.ask(
          { kind: "task", task, patienceMs: Math.min(this.#patience, patienceMs) },
          [],
          limitMs,
        );
        if (reply.kind === "done") {
          this.#away = undefined;
          resolve(reply.value as TaskValue[T["do"]]);
        } else if (reply.kind !== "crowded") reject(this.#noted(errorOf(reply)));
        else if (this.#withdraw(session)) this.#tasks.push(job);
        else reject(this.#noted(crowdedError(this.#settings.tokenLabel)));
      };
      const job: Job = { run: (session) => work(session).catch((thrown) => reject(this.#noted(thrown))), reject };
      this.#tasks.push(job);
      this.#plan();
    });
  }

  counts(): TokenCounts {
    return {
      ...new TokenTally(this.#settings.tally).read(),
      renewals: new Gate(this.#settings.gate).epoch,
      hung: this.#sessions.filter((session) => session.stuck).length,
      limit: this.#limit,
      away: this.#away !== undefined,
    };
  }

  /** Gives all sessions back; later calls open them again. */
  async rest(): Promise<void> {
    await Promise.all(this.#sessions.splice(0).map((session) => session.close()));
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#rejectAll(closedError());
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

  /** The session that is to have the next share: the least busy, or a new one while that is of use. */
  #next(): SessionThread | undefined {
    if (this.#crowdedAt !== undefined && performance.now() - this.#crowdedAt > CROWDED_MS) {
      this.#crowdedAt = undefined;
      this.#width.atMost(this.#limit);
    }
    const able = this.#sessions.filter((session) => !session.stuck).slice(0, this.#width.now);
    // A session that is still being opened is given nothing that another one could do sooner.
    const open = able.filter((session) => session.proven);
    const least = (open.length > 0 ? open : able).reduce<SessionThread | undefined>(
      (best, session) => (best === undefined || session.pending < best.pending ? session : best),
      undefined,
    );
    if (least?.pending === 0) return least;
    const more = able.length < this.#width.now && able.length - open.length < (open.length > 0 ? OPENED_AT_ONCE : 1);
    if (more && this.#sessions.length < this.#limit) {
      const session = this.#start();
      if (open.length === 0) return session;
      this.#run(this.#open(session));
      return this.#next();
    }
    // Every session there may be hangs in the token.
    if (least === undefined) this.#rejectAll(hangingError(this.#settings.tokenLabel));
    return least !== undefined && least.pending < SHARES_AHEAD ? least : undefined;
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
      reply = await session.ask({ kind: "operations", bytes, patienceMs: this.#patience }, [bytes.buffer]);
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
    if (this.#withdraw(session)) this.#queue.unshift(...crowded);
    else for (const { reject } of crowded) reject(this.#noted(crowdedError(this.#settings.tokenLabel)));
  }

  #measure(session: SessionThread, operations: number, asked: number): void {
    const now = performance.now();
    this.#share.done(operations, now - Math.max(asked, session.answeredAt));
    session.answeredAt = now;
    const able = this.#sessions.filter((each) => !each.stuck);
    const busy = able.slice(0, this.#width.now);
    // Shares that sessions of a wider time still have in hand would be counted for the narrower one.
    const settled =
      busy.length === this.#width.now &&
      able.every((each) => each.proven && (busy.includes(each) || each.pending === 0));
    this.#width.done(operations, this.#queue.length > 0, settled, now);
  }

  /** The token gives no session for this thread just now. @returns whether there are others to do its work. */
  #withdraw(session: SessionThread): boolean {
    const others = this.#sessions.filter((other) => other !== session && !other.stuck).length;
    if (others === 0) return false;
    const place = this.#sessions.indexOf(session);
    if (place >= 0) {
      this.#sessions.splice(place, 1);
      session.retire();
    }
    this.#width.atMost(others);
    this.#crowdedAt = performance.now();
    return true;
  }

  #start(): SessionThread {
    const session = new SessionThread(this.#settings, () => this.#plan());
    this.#sessions.push(session);
    for (const [version, proof] of this.#known) session.send({ kind: "know", version, proof });
    return session;
  }

  /** What fails here is told to whoever works in the session next, and it is opened then. */
  async #open(session: SessionThread): Promise<void> {
    const asked = session.ask({ kind: "task", task: { do: "limit" }, patienceMs: 0 }, []);
    const reply = await asked.catch((thrown) => this.#noted(thrown));
    if ("kind" in reply && reply.kind === "crowded") this.#withdraw(session);
  }

  #noted(error: Error): Error {
    if (error instanceof KekError && error.code === "hsm_away") this.#away = error;
    return error;
  }

  #refuseClosed(): void {
    if (this.#closed) throw closedError();
  }
}
