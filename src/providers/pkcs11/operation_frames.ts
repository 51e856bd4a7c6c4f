import { Buffer } from "node:buffer";
import { type ErrorCode, KekError } from "../../errors/errors.ts";

/**
 * Operations and their answers as they travel between threads: many in one piece of memory that changes hands, so that no
 * copy of a data key is left behind and a message costs little.
 */

export type SessionOperation =
  | { kind: "wrap"; version: number; data: Uint8Array; aad: Uint8Array }
  | { kind: "unwrap"; version: number; data: Uint8Array; aad: Uint8Array }
  | { kind: "rewrap"; version: number; data: Uint8Array; aad: Uint8Array; to: number; toAad: Uint8Array };

/** `noSession`: the token has no session for this thread, and why; another thread is to do it. */
export type Answer = { data: Uint8Array } | { error: KekError } | { noSession: string };

const KINDS = ["wrap", "unwrap", "rewrap"] as const;
const HEAD = 24;
const NOTHING = new Uint8Array(0);

export function frameBytes(operation: SessionOperation): number {
  return HEAD + operation.data.length + operation.aad.length + toAadOf(operation).length;
}

/** @returns how many bytes it wrote. */
export function writeOperations(operations: SessionOperation[], into: Uint8Array): number {
  const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
  let at = 0;
  for (const operation of operations) {
    const { version, data, aad } = operation;
    const toAad = toAadOf(operation);
    view.setUint32(at, KINDS.indexOf(operation.kind));
    view.setUint32(at + 4, version);
    view.setUint32(at + 8, operation.kind === "rewrap" ? operation.to : 0);
    view.setUint32(at + 12, data.length);
    view.setUint32(at + 16, aad.length);
    view.setUint32(at + 20, toAad.length);
    into.set(data, at + HEAD);
    into.set(aad, at + HEAD + data.length);
    into.set(toAad, at + HEAD + data.length + aad.length);
    at += HEAD + data.length + aad.length + toAad.length;
  }
  return at;
}

/**
 * Where a thread reads frames: memory of its own, whose views are made once and used for frame after frame. Of many threads
 * that wait for a token most finds its code and data out of the processor's caches at each call, so fewer objects count.
 */
export class OperationReader {
  #memory = new Uint8Array(0);
  #view = new DataView(this.#memory.buffer);
  readonly #views = new Map<number, Uint8Array>();
  #used = 0;

  /** Empties the frame. What the operations hold is theirs until `clear`. */
  read(frame: Uint8Array): SessionOperation[] {
    if (frame.length > this.#memory.length) this.#grow(frame.length);
    this.#memory.set(frame);
    this.#used = frame.length;
    frame.fill(0);
    const view = this.#view;
    const operations: SessionOperation[] = [];
    for (let at = 0; at < this.#used; ) {
      const kind = KINDS[view.getUint32(at)];
      const [version, to] = [view.getUint32(at + 4), view.getUint32(at + 8)];
      const aadAt = at + HEAD + view.getUint32(at + 12);
      const toAadAt = aadAt + view.getUint32(at + 16);
      const end = toAadAt + view.getUint32(at + 20);
      const data = this.#part(at + HEAD, aadAt);
      const aad = this.#part(aadAt, toAadAt);
      if (kind === "rewrap") operations.push({ kind, version, data, aad, to, toAad: this.#part(toAadAt, end) });
      else if (kind !== undefined) operations.push({ kind, version, data, aad });
      else throw new Error("a frame with an unknown operation");
      at = end;
    }
    return operations;
  }

  /** There may be data keys in it. */
  clear(): void {
    this.#memory.fill(0, 0, this.#used);
    this.#used = 0;
  }

  // -------------------------------------------------------------------------------------------------------------------

  #part(start: number, end: number): Uint8Array {
    const had = this.#views.get(start);
    if (had !== undefined && had.length === end - start) return had;
    const part = this.#memory.subarray(start, end);
    this.#views.set(start, part);
    return part;
  }

  #grow(length: number): void {
    this.#memory = new Uint8Array(length * 2);
    this.#view = new DataView(this.#memory.buffer);
    this.#views.clear();
  }
}

const STATUS = { data: 0, error: 1, noSession: 2 } as const;

export function packAnswers(answers: Answer[]): Uint8Array<ArrayBuffer> {
  const bodies = answers.map((answer) => {
    if ("data" in answer) return answer.data;
    if ("noSession" in answer) return Buffer.from(answer.noSession.slice(0, LONGEST_TEXT));
    const { code, message, hint } = answer.error;
    return Buffer.from(
      JSON.stringify({ code, message: message.slice(0, LONGEST_TEXT), hint: hint.slice(0, LONGEST_TEXT) }),
    );
  });
  const bytes = new Uint8Array(bodies.reduce((sum, body) => sum + 8 + body.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  answers.forEach((answer, index) => {
    const body = bodies[index] as Uint8Array;
    view.setUint32(at, "data" in answer ? STATUS.data : "noSession" in answer ? STATUS.noSession : STATUS.error);
    view.setUint32(at + 4, body.length);
    bytes.set(body, at + 8);
    at += 8 + body.length;
  });
  return bytes;
}

/** Data is copied out of the frame, and the frame zeroed. */
export function unpackAnswers(bytes: Uint8Array): Answer[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const answers: Answer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const [status, length] = [view.getUint32(at), view.getUint32(at + 4)];
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (status === STATUS.data) answers.push({ data: Buffer.from(body) });
    else if (status === STATUS.noSession) answers.push({ noSession: Buffer.from(body).toString("utf8") });
    else {
      const { code, message, hint } = JSON.parse(Buffer.from(body).toString("utf8"));
      answers.push({ error: new KekError(code as ErrorCode, message, hint) });
    }
    at += 8 + length;
  }
  bytes.fill(0);
  return answers;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Of a message or a hint, in characters: an error fits into the room that the ring has for an answer. */
const LONGEST_TEXT = 600;

function toAadOf(operation: SessionOperation): Uint8Array {
  return operation.kind === "rewrap" ? operation.toAad : NOTHING;
}
