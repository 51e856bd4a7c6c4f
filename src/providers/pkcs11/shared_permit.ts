import { Buffer } from "node:buffer";
import { KekError } from "../../errors/errors.ts";
import type { LoginPermit } from "./login.ts";
import type { PinChange } from "./pin.ts";
import type { ThreadState } from "./thread_state.ts";

/**
 * A permit to log in that the thread of a session, which blocks, is given by the thread that owns its pool, which can ask MongoDB.
 * One thread of a process logs in at a time (`ModuleLock.exclusively`).
 */

const STATE = { idle: 0, asked: 1, granted: 2, denied: 3 } as const;
const ROOM = 4096;
const TICK_MS = 200;

export type PermitMessage =
  | { kind: "login"; change: PinChange; permit: SharedArrayBuffer }
  | { kind: "logged_in"; refusedWith: number | undefined };

/** The thread that asks. */
export class SharedPermit implements LoginPermit {
  readonly #state: ThreadState;
  readonly #send: (message: PermitMessage) => void;

  constructor(state: ThreadState, send: (message: PermitMessage) => void) {
    this.#state = state;
    this.#send = send;
  }

  take(change: PinChange): void {
    const permit = new SharedArrayBuffer(8 + ROOM);
    const words = new Int32Array(permit, 0, 2);
    Atomics.store(words, 0, STATE.asked);
    this.#send({ kind: "login", change, permit });
    while (Atomics.load(words, 0) === STATE.asked) {
      Atomics.wait(words, 0, STATE.asked, TICK_MS);
      // Who waits for other processes does not hang in the module.
      this.#state.called();
    }
    if (Atomics.load(words, 0) === STATE.granted) return;
    const text = Buffer.from(new Uint8Array(permit, 8, Atomics.load(words, 1))).toString("utf8");
    const { code, message, hint } = JSON.parse(text);
    throw new KekError(code, message, hint);
  }

  give(refusedWith: number | undefined): void {
    this.#send({ kind: "logged_in", refusedWith });
  }
}

/** The thread that answers. @param denied why not; undefined when it may. */
export function answerPermit(permit: SharedArrayBuffer, denied: KekError | undefined): void {
  const words = new Int32Array(permit, 0, 2);
  if (denied !== undefined) {
    const { code, message, hint } = denied;
    const text = Buffer.from(JSON.stringify({ code, message: message.slice(0, 1000), hint: hint.slice(0, 800) }));
    new Uint8Array(permit, 8).set(text);
    Atomics.store(words, 1, text.length);
  }
  Atomics.store(words, 0, denied === undefined ? STATE.granted : STATE.denied);
  Atomics.notify(words, 0);
}
