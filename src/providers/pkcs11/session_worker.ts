import { parentPort, workerData } from "node:worker_threads";
import { crashPointAsked } from "../../config/environment.ts";
import { armCrashPoint } from "../../errors/crash_point.ts";
import { KekError, messageOf } from "../../errors/errors.ts";
import { type Answer, Inbox, type Operation, packAnswers } from "./operation_frames.ts";
import { RetryingSession, SessionUnavailable } from "./retrying_session.ts";
import type { SerializedError, SessionData, SessionReply, SessionRequest } from "./session_thread.ts";
import { SharedPermit } from "./shared_permit.ts";
import { perform } from "./tasks.ts";
import { ThreadState } from "./thread_state.ts";

/** A thread with one session of the token: it does what it is told, blocking, one operation at a time. */

const port = parentPort;
if (port === null) throw new Error("session_worker is started by session_pool.ts, not by hand");
armCrashPoint(crashPointAsked());
const inbox = new Inbox();
const { settings, state: memory } = workerData as SessionData;
const state = new ThreadState(memory);
const session = new RetryingSession(settings, state, new SharedPermit(state, (message) => port.postMessage(message)));
state.starting = false;

function operate(operation: Operation, retryForMs: number): Uint8Array {
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

/** Why the token opened no session, when it last did not. */
let cause = "";

function answer(operation: Operation, retryForMs: number): Answer {
  try {
    return { data: operate(operation, retryForMs) };
  } catch (thrown) {
    if (thrown instanceof SessionUnavailable) {
      cause = thrown.message;
      return "no_session";
    }
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

port.on("message", (request: SessionRequest) => {
  switch (request.kind) {
    case "operations": {
      let { retryForMs } = request;
      const operations = inbox.read(request.bytes);
      const answers = session.counters.using(operations.length, () =>
        operations.map((operation) => {
          const given = answer(operation, retryForMs);
          // The rest need not find out too that the token is away.
          if (given !== "no_session" && "error" in given && given.error.code === "hsm_away") retryForMs = 0;
          return given;
        }),
      );
      inbox.clear();
      const packed = packAnswers(answers);
      for (const given of answers) if (given !== "no_session" && "data" in given) given.data.fill(0);
      return reply({ kind: "answers", bytes: packed, cause }, [packed.buffer]);
    }
    case "task":
      try {
        const value = session.counters.using(1, () => perform(session, request.task, request.retryForMs));
        return reply({ kind: "done", value });
      } catch (thrown) {
        if (thrown instanceof SessionUnavailable) return reply({ kind: "no_session", cause: thrown.message });
        return reply({ kind: "failed", error: serialized(thrown) });
      }
    case "load":
      return session.keys.load(request.version, request.canary);
    case "release":
      return session.keys.release(request.version);
    case "rest":
      session.rest();
      return reply({ kind: "rested" });
    case "close":
      try {
        session.close();
      } catch (thrown) {
        // The thread ends either way; the token gives the session up when the process is gone.
        if (!(thrown instanceof Error)) throw thrown;
      }
      return reply({ kind: "closed" });
  }
});
