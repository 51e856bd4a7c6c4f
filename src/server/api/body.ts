import { withTimeLimit } from "../../util/time_limit.ts";
import { Refusal } from "./problem.ts";

/** A request's body, read as JSON within limits of size and time, and of memory for all requests together. */

/** 8 MiB of plaintext, or an envelope of as much, in base64 and JSON. A batch shares it. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024;
export const BODY_LIMIT_MS = 15_000;
/** Requests in hand, and bytes of their bodies. A request beyond waits for a moment, and is then told to come again. */
export const MAX_REQUESTS = 256;
export const MAX_WAITING = 1024;
export const WAIT_MS = 1000;
export const MAX_PENDING_BYTES = 128 * 1024 * 1024;

/** How many requests are in hand, and how large their bodies are. */
export class RequestBudget {
  #requests = 0;
  #bytes = 0;
  /** Requests that wait for a place, oldest first. */
  readonly #waiting: (() => void)[] = [];

  /** Runs the work of one request, which takes bytes as they arrive. @throws Refusal `busy`. */
  async admit<T>(work: (take: (bytes: number) => void) => Promise<T>): Promise<T> {
    await this.#place();
    let taken = 0;
    try {
      return await work((bytes) => {
        if (this.#bytes + bytes > MAX_PENDING_BYTES) throw busy();
        this.#bytes += bytes;
        taken += bytes;
      });
    } finally {
      this.#bytes -= taken;
      const next = this.#waiting.shift();
      if (next === undefined) this.#requests -= 1;
      else next();
    }
  }

  /** A place that is given back goes to the request that has waited longest. @throws Refusal `busy`. */
  async #place(): Promise<void> {
    if (this.#requests < MAX_REQUESTS) {
      this.#requests += 1;
      return;
    }
    if (this.#waiting.length >= MAX_WAITING) throw busy();
    await new Promise<void>((resolve, reject) => {
      const given = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(given), 1);
        reject(busy());
      }, WAIT_MS);
      this.#waiting.push(given);
    });
  }
}

/**
 * @param take told of bytes before they are kept.
 * @throws Refusal `media_type_refused`, `body_too_large`, `body_too_slow`, `body_broken`.
 */
export async function readJson(
  request: Request,
  take: (bytes: number) => void,
  limitMs = BODY_LIMIT_MS,
): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json *(; *charset="?utf-8"? *)?$/i.test(type)) {
    const hint = "send it with `Content-Type: application/json`";
    throw new Refusal("media_type_refused", "the request's content type is not application/json", hint);
  }
  const bytes = await inTime(readBytes(request, take), limitMs);
  try {
    return parse(bytes);
  } finally {
    bytes.fill(0);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** A body of a known length comes in one piece, which the server has counted; another is counted here as it comes. */
async function readBytes(request: Request, take: (bytes: number) => void): Promise<Uint8Array> {
  const told = request.headers.get("content-length");
  if (told !== null && !request.headers.has("transfer-encoding")) {
    if (Number(told) > MAX_BODY_BYTES) throw tooLarge();
    take(Number(told));
    return new Uint8Array(await request.arrayBuffer());
  }
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw tooLarge();
    take(chunk.length);
    chunks.push(chunk);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
    chunk.fill(0);
  }
  return whole;
}

async function inTime<T>(reading: Promise<T>, limitMs: number): Promise<T> {
  return await withTimeLimit(limitMs, reading, () => {
    const hint = "send the whole body at once";
    throw new Refusal("body_too_slow", `the body did not arrive in ${limitMs / 1000} s`, hint, CLOSE);
  });
}

/**
 * Names that mean something to JavaScript's objects, which would be passed over; halves of a UTF-16 pair, which no BSON string
 * holds; and 5.0, which is 5 here, and a double to the driver that stores the record.
 */
const UNFIT_NAMES = new Set(["__proto__", "prototype", "constructor"]);
const SUSPECT = /__proto__|prototype|constructor|\\u|[[:,]\s*(?:-0|-?\d+[.eE])/;
const WHOLE_NUMBER = /^(0|-?[1-9]\d*)$/;
/** Enough for a full batch. Checking each against the schema keeps everything else waiting, heartbeats too. */
const MAX_VALUES = 50_000;
/** As many as MongoDB stores. */
const MAX_DEPTH = 100;

function parse(bytes: Uint8Array): unknown {
  let unfit = false;
  let value: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    value = JSON.parse(text);
    if (SUSPECT.test(text)) {
      JSON.parse(text, (key, part, context?: { source?: string }) => {
        unfit ||= UNFIT_NAMES.has(key) || !key.isWellFormed() || (typeof part === "string" && !part.isWellFormed());
        unfit ||= typeof part === "number" && !WHOLE_NUMBER.test(context?.source ?? "");
        return part;
      });
    }
  } catch {
    // The parser's message quotes the body, which holds secrets.
    throw new Refusal("body_broken", "the body is not JSON in UTF-8", "send one JSON object");
  }
  if (unfit) {
    const hint =
      "no member may be called __proto__, prototype or constructor, every text must be valid Unicode, and a number must be whole, as 5; others as $numberDouble";
    throw new Refusal("request_invalid", "the body has a name, a text or a number that is not taken", hint);
  }
  refuseSprawling(value);
  return value;
}

function refuseSprawling(body: unknown): void {
  let level = [body];
  let values = 0;
  for (let depth = 0; level.length > 0; depth += 1) {
    values += level.length;
    if (values > MAX_VALUES || depth > MAX_DEPTH) {
      const hint = `send at most ${MAX_VALUES} values, ${MAX_DEPTH} levels deep; fewer items at once`;
      throw new Refusal("request_invalid", "the body has too many values, or too many levels", hint);
    }
    level = level.flatMap((value) => (typeof value === "object" && value !== null ? Object.values(value) : []));
  }
}

const CLOSE = { connection: "close" };

function tooLarge(): Refusal {
  const detail = `the body has more than ${MAX_BODY_BYTES} bytes`;
  return new Refusal("body_too_large", detail, "send fewer items at once; a value is at most 8 MiB", CLOSE);
}

function busy(): Refusal {
  const hint = "send it again a little later, or fewer at once";
  return new Refusal("busy", "the server has as many requests in hand as it takes", hint);
}
