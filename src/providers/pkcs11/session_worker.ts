import { parentPort, workerData } from "node:worker_threads";
import { crashPointAsked } from "../../config/environment.ts";
import { armCrashPoint } from "../../errors/crash_point.ts";
import { KekError, messageOf } from "../../errors/errors.ts";
import { type Answer, Inbox, type Operation, packAnswers } from "./frames.ts";
import type { SessionData, SessionReply, SessionRequest, ToldError } from "./session_thread.ts";
import { SharedPermit } from "./shared_permit.ts";
import { Crowded, SteadySession } from "./steady.ts";
import { perform } from "./tasks.ts";
import { ThreadState } from "./thread_state.ts";

/** A thread with one session of the token: it does what it is told, blocking, one operation at a time. */

const port = parentPort;
if (port === null) throw new Error("session_worker is started by session_pool.ts, not by hand");
if (import.meta.crashPoints) armCrashPoint(crashPointAsked());
const inbox = new Inbox();
const { settings, state: memory } = workerData as SessionData;
const state = new ThreadState(memory);
const steady = new SteadySession(settings, state, new SharedPermit(state, (message) => port.postMessage(message)));
state.starting = false;

function operate(operation: Operation, patienceMs: number): Uint8Array {
  const { version, data, aad } = operation;
  switch (operation.kind) {
    case "wrap":
      return steady.wrap(data, aad, version, patienceMs);
    case "unwrap":
      return steady.unwrap(data, aad, version, patienceMs);
    case "rewrap":
      return steady.rewrap(data, { version, aad }, { version: operation.to, aad: operation.toAad }, patienceMs);
  }
}

/** Why the token opened no session, when it last did not. */
let cause = "";

function answer(operation: Operation, patienceMs: number): Answer {
  try {
    return { data: operate(operation, patienceMs) };
  } catch (thrown) {
    if (thrown instanceof Crowded) {
      cause = thrown.message;
      return "crowded";
    }
    return { error: asKekError(thrown) };
  }
}

function asKekError(thrown: unknown): KekError {
  if (thrown instanceof KekError) return thrown;
  return new KekError("unexpected", messageOf(thrown), "this is a defect: report it", { cause: thrown });
}

/** Errors do not keep their class between threads. */
function told(thrown: unknown): ToldError {
  const { code, message, hint } = asKekError(thrown);
  return { code, message, hint };
}

function reply(message: SessionReply, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

port.on("message", (request: SessionRequest) => {
  switch (request.kind) {
    case "operations": {
      let { patienceMs } = request;
      const operations = inbox.read(request.bytes);
      const answers = steady.tally.using(operations.length, () =>
        operations.map((operation) => {
          const given = answer(operation, patienceMs);
          // The rest need not find out too that the token is away.
          if (given !== "crowded" && "error" in given && given.error.code === "hsm_unavailable") patienceMs = 0;
          return given;
        }),
      );
      inbox.clear();
      const packed = packAnswers(answers);
      for (const given of answers) if (given !== "crowded" && "data" in given) given.data.fill(0);
      return reply({ kind: "answers", bytes: packed, cause }, [packed.buffer]);
    }
    case "task":
      try {
        const value = steady.tally.using(1, () => perform(steady, request.task, request.patienceMs));
        return reply({ kind: "done", value });
      } catch (thrown) {
        if (thrown instanceof Crowded) return reply({ kind: "crowded", cause: thrown.message });
        return reply({ kind: "failed", error: told(thrown) });
      }
    case "know":
      return steady.keys.know(request.version, request.proof);
    case "forget":
      return steady.keys.forget(request.version);
    case "rest":
      steady.rest();
      return reply({ kind: "rested" });
    case "close":
      try {
        steady.close();
      } catch (thrown) {
        // The thread ends either way; the token gives the session up when the process is gone.
        if (!(thrown instanceof Error)) throw thrown;
      }
      return reply({ kind: "closed" });
  }
});
