import { parentPort, workerData } from "node:worker_threads";
import { crashPointAsked } from "../../config/environment.ts";
import { armCrashPoint } from "../../errors/crash_point.ts";
import { KekError, messageOf } from "../../errors/errors.ts";
import { type Answer, OperationReader, packAnswers, type SessionOperation } from "./operation_frames.ts";
import { AnswerBell, OperationRing } from "./operation_ring.ts";
import { RetryingSession, SessionUnavailable } from "./retrying_session.ts";
import type {
  AnsweredMessage,
  SerializedError,
  SessionData,
  SessionReply,
  SessionRequest,
} from "./session_messages.ts";
import { SharedPermit } from "./shared_permit.ts";
import { performTask, type Task } from "./tasks.ts";
import { ThreadState } from "./thread_state.ts";

/** A thread with one session of the token: runs requests, blocking, one at a time. */

const port = parentPort;
if (port === null) throw new Error("session_worker is started by session_pool.ts, not by hand");
if (import.meta.crashPoints) armCrashPoint(crashPointAsked());
const reader = new OperationReader();
const shared = workerData as SessionData;
const state = new ThreadState(shared.state);
const ring = new OperationRing(shared.ring);
const bell = new AnswerBell(shared.bell);
const session = new RetryingSession(
  shared.settings,
  state,
  new SharedPermit(state, (message) => port.postMessage(message)),
);
state.starting = false;

function operate(operation: SessionOperation, retryForMs: number): Uint8Array {
  const { version, data, aad } = operation;
  switch (operation.kind) {
    case "wrap":
      return session.wrap(data, aad, version, retryForMs);
    case "unwrap":
      return session.unwrap(data, aad, version, retryForMs);
    case "rewrap":
      return session.rewrap(data, { version, aad }, { version: operation.to, aad: operation.toAad }, retryForMs);
  }
}

function answer(operation: SessionOperation, retryForMs: number): Answer {
  try {
    return { data: operate(operation, retryForMs) };
  } catch (thrown) {
    if (thrown instanceof SessionUnavailable) return { noSession: thrown.message };
    return { error: asKekError(thrown) };
  }
}

function asKekError(thrown: unknown): KekError {
  if (thrown instanceof KekError) return thrown;
  return new KekError("unexpected", messageOf(thrown), "this is a defect: report it", { cause: thrown });
}

/** Errors do not keep their class between threads. */
function serialized(thrown: unknown): SerializedError {
  const { code, message, hint } = asKekError(thrown);
  return { code, message, hint };
}

function reply(message: SessionReply, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

/** The shortest time of one call into the module, among the operations of the request in work. */
let callMs = Number.NaN;

/** @returns the answers to the operations of a frame, as a frame. */
function answerAll(frame: Uint8Array, retryForMs: number): Uint8Array<ArrayBuffer> {
  const operations = reader.read(frame);
  let retryFor = retryForMs;
  callMs = Number.NaN;
  const answers = session.counters.using(operations.length, () =>
    operations.map((operation) => {
      const [opened, calls, began] = [state.open, state.calls, performance.now()];
      const given = answer(operation, retryFor);
      // An operation that opens the session and finds the key says nothing of its own calls.
      if (opened && "data" in given) {
        const ms = (performance.now() - began) / (state.calls - calls);
        if (!(ms >= callMs)) callMs = ms;
      }
      // The rest need not find out too that the token is unavailable.
      if ("error" in given && given.error.code === "hsm_unavailable") retryFor = 0;
      return given;
    }),
  );
  reader.clear();
  const packed = packAnswers(answers);
  for (const given of answers) if ("data" in given) given.data.fill(0);
  return packed;
}

/** Answers what is in the ring until a message comes, or nothing has come for a while. */
function serveRing(): void {
  for (let request = ring.next(); request !== undefined; request = ring.next()) {
    const packed = answerAll(request.bytes, request.retryForMs);
    ring.answer(packed, callMs);
    packed.fill(0);
    if (bell.ring()) port?.postMessage({ kind: "answered" } satisfies AnsweredMessage);
  }
}

port.on("message", (request: SessionRequest) => {
  ring.messageReceived();
  handle(request);
  if (request.kind !== "close") serveRing();
});

function handle(request: SessionRequest): void {
  switch (request.kind) {
    case "wake":
      break;
    case "operation": {
      const bytes = answerAll(request.bytes, request.retryForMs);
      reply({ kind: "answer", bytes }, [bytes.buffer]);
      break;
    }
    case "task":
      reply(perform(request.task, request.retryForMs));
      break;
    case "load":
      session.keys.load(request.version, request.canary);
      break;
    case "release":
      session.keys.release(request.version);
      break;
    case "rest":
      session.rest();
      reply({ kind: "rested" });
      break;
    case "close":
      try {
        session.close();
      } catch (thrown) {
        // The thread ends either way; the token closes the session when the process ends.
        if (!(thrown instanceof Error)) throw thrown;
      }
      reply({ kind: "closed" });
      break;
  }
}

function perform(task: Task, retryForMs: number): SessionReply {
  try {
    return { kind: "done", value: session.counters.using(1, () => performTask(session, task, retryForMs)) };
  } catch (thrown) {
    if (thrown instanceof SessionUnavailable) return { kind: "no_session", cause: thrown.message };
    return { kind: "failed", error: serialized(thrown) };
  }
}
