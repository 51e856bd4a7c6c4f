import { type ErrorCode, KekError } from "../../errors/errors.ts";

/** Errors as RFC 9457 has them. Texts are a KekError's, which are built from names; of anything else nothing is told. */

export interface Problem {
  /** `urn:certautopilot:problem:` and the code. */
  type: string;
  title: string;
  /** The HTTP status; of an item in a batch, the one that it would have had alone. */
  status: number;
  detail: string;
  /** What to do next. */
  hint: string;
  /** Stable, for programs: a KekError's, or one of `REFUSALS`. */
  code: string;
}

export const PROBLEM_JSON = "application/problem+json";
/** With every 503: what stands in the way continues automatically, or needs a person, who is not faster. */
export const RETRY_AFTER_S = 1;

/** What this API refuses by itself, before a key is asked for. */
export const REFUSALS = {
  api_off: [404, "The API is off"],
  not_found: [404, "There is no such path"],
  method_not_allowed: [405, "The path does not know this method"],
  unauthorized: [401, "The bearer token is missing or wrong"],
  token_unreadable: [503, "The server cannot read its token"],
  host_refused: [421, "The server is not known by this Host"],
  origin_refused: [403, "Requests of other sites' pages are refused"],
  media_type_refused: [415, "The body must be application/json"],
  body_too_large: [413, "The body is too large"],
  body_too_slow: [408, "The body did not arrive in time"],
  body_broken: [400, "The body is not JSON"],
  request_invalid: [422, "The request is not of the form that the OpenAPI document shows"],
  busy: [503, "Too many requests are in hand"],
} as const satisfies Record<string, readonly [number, string]>;

export type RefusalCode = keyof typeof REFUSALS;

/** A request that is refused before its work begins. */
export class Refusal extends Error {
  readonly problem: Problem;
  readonly headers: Record<string, string>;

  constructor(code: RefusalCode, detail: string, hint: string, headers: Record<string, string> = {}) {
    super(detail);
    const [status, title] = REFUSALS[code];
    this.problem = { type: typeOf(code), title, status, detail, hint, code };
    this.headers = headers;
  }
}

export type ApiOperation = "encrypt" | "decrypt";

/** What a client is told of whatever was thrown. */
export function problemOf(thrown: unknown, operation: ApiOperation): Problem {
  if (thrown instanceof Refusal) return thrown.problem;
  if (!(thrown instanceof KekError) || thrown.code === "unexpected") return UNEXPECTED;
  const { code, message, hint } = thrown;
  // A version that is not held after another look at the state is one that the install does not read now.
  const key = code === "version_not_loaded" && operation === "decrypt" ? "version_not_readable" : code;
  const [status, title] = OF_KEK[key] ?? [503, "The server cannot do this now"];
  return { type: typeOf(code), title, status, detail: message, hint, code };
}

// ---------------------------------------------------------------------------------------------------------------------

/** What the client, or the data, is the reason for. Every other KekError means that this process cannot do its work now. */
const OF_KEK: Partial<Record<ErrorCode | "version_not_readable", readonly [number, string]>> = {
  usage: [422, "The field cannot hold envelopes"],
  plaintext_too_large: [413, "The plaintext is too large"],
  envelope_invalid: [422, "This is no envelope of this install"],
  decryption_failed: [422, "The envelope does not open at this place"],
  version_not_readable: [409, "The envelope's KEK version is not in use"],
  fenced: [503, "This process may not encrypt now"],
  closed: [503, "This process is stopping"],
};

const UNEXPECTED: Problem = {
  type: typeOf("unexpected"),
  title: "Something unexpected happened",
  status: 500,
  detail: "the request could not be carried out",
  hint: "look at the log of the server at this time",
  code: "unexpected",
};

function typeOf(code: string): string {
  return `urn:certautopilot:problem:${code}`;
}
