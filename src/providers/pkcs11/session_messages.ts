import type { ErrorCode } from "../../errors/errors.ts";
import type { KeyCanary } from "../provider.ts";
import type { Task, TaskValue } from "./tasks.ts";
import type { TokenSettings } from "./token_settings.ts";

/** Messages between the thread of a session and the thread that gives it work. Operations travel in the ring where they fit. */

export type SessionRequest =
  /** There are operations in the ring, and the thread waits in its event loop. */
  | { kind: "wake" }
  /** One that does not fit into the ring. */
  | { kind: "operation"; bytes: Uint8Array; retryForMs: number }
  | { kind: "task"; task: Task; retryForMs: number }
  | { kind: "load"; version: number; canary: KeyCanary | undefined }
  | { kind: "release"; version: number }
  /** Closes the session and keeps the module. */
  | { kind: "rest" }
  | { kind: "close" };

export type SessionReply =
  | { kind: "answer"; bytes: Uint8Array }
  | { kind: "done"; value: TaskValue[Task["do"]] }
  | { kind: "failed"; error: SerializedError }
  | { kind: "no_session"; cause: string }
  | { kind: "rested" }
  | { kind: "closed" };

/** There are answers in the ring of this session, or of another one that shares its bell. */
export interface AnsweredMessage {
  kind: "answered";
}

/** What a session's thread is made from. */
export interface SessionData {
  settings: TokenSettings;
  state: SharedArrayBuffer;
  ring: SharedArrayBuffer;
  bell: SharedArrayBuffer;
}

/** Errors do not keep their class between threads. */
export interface SerializedError {
  code: ErrorCode;
  message: string;
  hint: string;
}
