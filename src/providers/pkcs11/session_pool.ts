import { availableParallelism } from "node:os";
import type { KeyCanary } from "../provider.ts";
import { Backoff } from "./backoff.ts";
import type { LoginCoordinator } from "./login_coordinator.ts";
import { AnswerBell, REQUESTS_AHEAD } from "./operation_ring.ts";
import { SessionThread } from "./session_thread.ts";
import type { TokenSettings } from "./token_settings.ts";

/**
 * The sessions of a token that one process has. More are opened as work comes in. A session that the token does not give is asked
 * for again after a backoff. Administrative work has a session of its own where the token gives one.
 */

/**
 * How many sessions are opened at a time, once one has shown that the token gives them. Each starts a thread, which takes a
 * processor for a while: one processor is left to the work.
 */
const OPENED_AT_ONCE = Math.max(1, Math.min(4, availableParallelism() - 1));

export interface SessionSetOptions {
  /** Whether administrative work gets a session of its own. */
  separateTasks: boolean;
  logins: LoginCoordinator;
  /** Sessions may be of use again, or have opened: there may be somebody to give work to. */
  changed(): void;
}

export class SessionPool {
  readonly #settings: TokenSettings;
  readonly #options: SessionSetOptions;
  readonly #bell = new AnswerBell();
  readonly #sessions: SessionThread[] = [];
  readonly #retired = new Set<SessionThread>();
  #taskSession: SessionThread | undefined;
  readonly #canaries = new Map<number, KeyCanary | undefined>();
  #limit: number;
  /** Between attempts to open a session more than the token gave. */
  readonly #further = new Backoff();
  readonly #furtherForTasks = new Backoff();
  /** How many sessions the token gave when it last gave no further one. */
  #given = Number.POSITIVE_INFINITY;

  constructor(settings: TokenSettings, limit: number, options: SessionSetOptions) {
    this.#settings = settings;
    this.#options = options;
    this.#limit = limit;
  }

  get limit(): number {
    return this.#limit;
  }

  get hung(): number {
    return this.#all.filter((session) => session.stuck).length;
  }

  /** How many sessions the work may have now. */
  get workLimit(): number {
    const limit = this.#taskSession === undefined ? this.#limit : this.#limit - 1;
    return this.#further.over ? limit : Math.min(limit, this.#given);
  }

  /** Lowers the limit to what the token gives. */
  atMost(limit: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit, limit));
    if (this.#limit === 1) this.#lendTaskSession();
  }

  load(version: number, canary: KeyCanary | undefined): void {
    this.#canaries.set(version, canary);
    for (const session of this.#all) session.send({ kind: "load", version, canary });
  }

  release(version: number): void {
    this.#canaries.delete(version);
    for (const session of this.#all) session.send({ kind: "release", version });
  }

  /** The session for administrative work; undefined where the sessions of the work must do it. */
  forTasks(): SessionThread | undefined {
    if (this.#taskSession?.dead) this.#taskSession = undefined;
    if (this.#taskSession !== undefined) return this.#taskSession.stuck ? undefined : this.#taskSession;
    const room = this.#options.separateTasks && this.#limit > 1 && this.#sessions.length < this.#limit;
    if (!room || !this.#furtherForTasks.over) return undefined;
    this.#taskSession = this.#start();
    return this.#taskSession;
  }

  /**
   * The session that is to have the next work: the least busy of those that are open. Opens more while that is of use.
   * @param wanted how many are of use. @returns "busy" when there is work for all of them, "hung" when none can answer.
   */
  next(wanted: number): SessionThread | "busy" | "hung" {
    let least: SessionThread | undefined;
    let opening: SessionThread | undefined;
    let [open, coming] = [0, 0];
    for (const session of this.#sessions) {
      if (session.stuck) continue;
      if (!session.open) {
        if (session.pending === 0) continue;
        opening ??= session;
        coming += 1;
      } else if (open < wanted) {
        open += 1;
        if (least === undefined || session.pending < least.pending) least = session;
      }
    }
    if (least?.pending === 0) return least;
    if (open === 0) return this.#firstSession(opening);
    const more = open + coming < wanted && coming < (this.#further.failing ? 1 : OPENED_AT_ONCE);
    if (more && this.#further.over) {
      const session = this.#closedOne();
      if (session !== undefined) {
        this.#open(session);
        return this.next(wanted);
      }
    }
    return withRoom(least);
  }

  /** The token gives no session for this thread now. @returns whether there are others to do its work. */
  withdraw(session: SessionThread): boolean {
    if (session === this.#taskSession) {
      this.#taskSession = undefined;
      this.#furtherForTasks.failed();
      this.#retired.add(session);
      session.retire().finally(() => this.#retired.delete(session));
      return true;
    }
    const others = this.#sessions.filter(
      (other) => other !== session && !other.stuck && (other.open || other.pending > 0),
    );
    const lent = others.length === 0 ? this.#lendTaskSession() : undefined;
    if (lent !== undefined) others.push(lent);
    if (others.length === 0) return false;
    this.#further.failed();
    this.#given = others.length;
    return true;
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
    const all = this.#all;
    this.#sessions.splice(0);
    this.#taskSession = undefined;
    await Promise.all(all.map((session) => session.close()));
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #all(): SessionThread[] {
    return this.#taskSession === undefined ? [...this.#sessions] : [this.#taskSession, ...this.#sessions];
  }

  /**
   * Until a session of the work is open, the one for administrative work does it, if it is open; else the first one that opens
   * its session takes work along.
   */
  #firstSession(opening: SessionThread | undefined): SessionThread | "busy" | "hung" {
    const closed = opening === undefined ? this.#closedOne() : undefined;
    const tasks = this.#taskSession?.open ? this.#taskSession : undefined;
    if (tasks !== undefined) {
      if (closed !== undefined && this.#further.over) this.#open(closed);
      return withRoom(tasks);
    }
    if (opening !== undefined) return withRoom(opening);
    return closed ?? this.#lendTaskSession() ?? "hung";
  }

  /** Where the token gives one session, that one does everything. */
  #lendTaskSession(): SessionThread | undefined {
    const session = this.#taskSession;
    if (session === undefined || session.stuck) return undefined;
    this.#taskSession = undefined;
    this.#furtherForTasks.failed();
    this.#sessions.push(session);
    return session;
  }

  /** A thread without a session and without work; a new one where there may be more. */
  #closedOne(): SessionThread | undefined {
    for (const session of this.#sessions.filter((each) => each.dead))
      this.#sessions.splice(this.#sessions.indexOf(session), 1);
    const idle = this.#sessions.find((session) => !session.stuck && !session.open && session.pending === 0);
    const limit = this.#taskSession === undefined ? this.#limit : this.#limit - 1;
    if (idle !== undefined || this.#sessions.length >= limit) return idle;
    const session = this.#start();
    this.#sessions.push(session);
    return session;
  }

  #start(): SessionThread {
    const session = new SessionThread(this.#settings, this.#bell, {
      answered: () => this.#takeAnswers(),
      freed: () => this.#options.changed(),
      login: (message) => this.#options.logins.handle(message),
    });
    for (const [version, canary] of this.#canaries) session.send({ kind: "load", version, canary });
    return session;
  }

  #takeAnswers(): void {
    this.#bell.silence();
    for (const session of this.#sessions) session.takeAnswers();
    for (const session of this.#retired) session.takeAnswers();
    this.#taskSession?.takeAnswers();
  }

  /** One session more. Where that fails the thread is left without one, and tried again later. */
  async #open(session: SessionThread): Promise<void> {
    const reply = await session
      .ask({ kind: "task", task: { do: "open" }, retryForMs: 0 }, [])
      .catch((thrown: Error) => thrown);
    if ("kind" in reply && reply.kind === "done") this.#further.worked();
    else if (this.#sessions.includes(session)) this.withdraw(session);
    this.#options.changed();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function withRoom(session: SessionThread | undefined): SessionThread | "busy" {
  return session !== undefined && session.pending < REQUESTS_AHEAD ? session : "busy";
}
