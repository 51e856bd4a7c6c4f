import { createHash, timingSafeEqual } from "node:crypto";
import { readPrivateFile } from "../../config/secrets_file.ts";
import { KekError } from "../../errors/errors.ts";
import type { Log } from "../../errors/log.ts";
import { Refusal } from "./problem.ts";

/** The bearer token that stands in a file of mode 0600; a changed file counts within a second, without a restart. */

const MIN_LENGTH = 32;
const LOOK_AGAIN_MS = 1000;
/** RFC 6750, section 2.1. */
const TOKEN = /^[A-Za-z0-9\-._~+/]+=*$/;

export class BearerToken {
  readonly #path: string;
  readonly #log: Log;
  #digest: Uint8Array | undefined;
  #readAt: number;
  #complaint = "";

  /** @throws KekError when the file cannot be read, others can read it, or it holds no token of 32 characters. */
  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
    this.#digest = digestOfFile(path);
    this.#readAt = performance.now();
  }

  /** @param authorization the header. @throws Refusal when it does not hold the token; compared in constant time. */
  check(authorization: string | undefined): void {
    this.#look();
    if (this.#digest === undefined) {
      const hint = "the server's log says what is wrong with the token's file";
      throw new Refusal("token_unreadable", "the file with the API's token is not fit any more", hint);
    }
    const given = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1];
    if (given !== undefined && timingSafeEqual(digestOf(given), this.#digest)) return;
    throw given === undefined
      ? unauthorized("the request has no bearer token", "")
      : unauthorized("the bearer token is not this server's", ', error="invalid_token"');
  }

  #look(): void {
    if (performance.now() - this.#readAt < LOOK_AGAIN_MS) return;
    this.#readAt = performance.now();
    try {
      this.#digest = digestOfFile(this.#path);
      this.#complaint = "";
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      // Others may have read it: nobody gets in before the file is right again.
      this.#digest = undefined;
      if (this.#complaint !== thrown.message)
        this.#log.warn(`the API refuses every request: ${thrown.message}; ${thrown.hint}`);
      this.#complaint = thrown.message;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function digestOf(token: string): Uint8Array {
  return createHash("sha256").update(token).digest();
}

function digestOfFile(path: string): Uint8Array {
  const token = readPrivateFile(path, "the API's token file").trim();
  if (token.length >= MIN_LENGTH && TOKEN.test(token)) return digestOf(token);
  throw new KekError(
    "config_invalid",
    `the API's token file ${path} does not hold one bearer token of at least ${MIN_LENGTH} characters in one line`,
    `run: (umask 077; openssl rand -hex 32 > ${path})`,
  );
}

function unauthorized(detail: string, more: string): Refusal {
  return new Refusal(
    "unauthorized",
    detail,
    "send `Authorization: Bearer …` with the token of the server's token file",
    {
      "www-authenticate": `Bearer realm="certautopilot"${more}`,
    },
  );
}
