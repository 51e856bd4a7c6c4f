import { type Context, Hono } from "hono";
import * as v from "valibot";
import { messageOf } from "../../errors/errors.ts";
import type { Log } from "../../errors/log.ts";
import { isOwnHost, isOwnOrigin } from "../same_host.ts";
import { RequestBudget, readJson } from "./body.ts";
import { openApiDocument } from "./openapi.ts";
import { type ApiOperation, PROBLEM_JSON, type Problem, problemOf, RETRY_AFTER_S, Refusal } from "./problem.ts";
import { decryptBatch, decryptItem, encryptBatch, encryptItem } from "./schemas.ts";
import type { BearerToken } from "./token.ts";
import { decryptOne, each, encryptOne, type Keys, type Outcome } from "./work.ts";

/** Encrypt and decrypt for services in any language: `/v1/encrypt`, `/v1/decrypt`, and their description. */

export interface ApiOptions extends Keys {
  token: BearerToken;
  /** `server.hosts`. */
  hosts: readonly string[];
}

/** @param options undefined while the API is not configured: then each path under /v1 says how to switch it on. */
export function apiOf(options: ApiOptions | undefined): Hono {
  const api = new Hono();
  api.onError((thrown) => failed(thrown, options?.log));
  if (options === undefined) {
    api.all("*", () => {
      throw new Refusal(
        "api_off",
        "the API of this server is off",
        "set CERTAUTOPILOT_API_TOKEN_FILE, see docs/api.md",
      );
    });
    return api;
  }
  const inHand = new RequestBudget();
  api.use(async ({ req }, next) => {
    checkSender(req.raw, options.hosts);
    await next();
  });
  api.get("/openapi.json", (context) => context.json(openApiDocument()));
  const post = <I, B extends object>(
    operation: ApiOperation,
    item: Schema<I>,
    batch: Schema<{ items: I[] }>,
    one: (item: I) => Promise<Outcome<B>>,
  ) =>
    api.post(`/${operation}`, async (context) => {
      options.token.check(context.req.header("authorization"));
      return await inHand.admit(async (take) => {
        const body = await readJson(context.req.raw, take);
        if (!isBatch(body)) return answer(context, await one(parsed(item, body)));
        return context.json({ items: await each(parsed(batch, body).items, one) });
      });
    });
  post("encrypt", encryptItem, encryptBatch, (item) => encryptOne(options, item));
  post("decrypt", decryptItem, decryptBatch, (item) => decryptOne(options, item));
  for (const [path, allow] of Object.entries(METHODS)) {
    api.all(path, () => {
      throw new Refusal("method_not_allowed", `/v1${path} does not know this method`, `use ${allow}`, { allow });
    });
  }
  api.all("*", () => {
    throw new Refusal("not_found", "there is no such path", "see /v1/openapi.json for those there are");
  });
  return api;
}

// ---------------------------------------------------------------------------------------------------------------------

const ID_HINT =
  'write it as extended JSON: {"$oid": "…"}, and a number that is no int32 as {"$numberLong": "…"}; docs/api.md has them all';
const METHODS = { "/encrypt": "POST", "/decrypt": "POST", "/openapi.json": "GET, HEAD" };

type Schema<T> = v.GenericSchema<unknown, T>;

function checkSender(request: Request, hosts: readonly string[]): void {
  if (!isOwnHost(request, hosts)) {
    const hint = "ask by an address or localhost, or name this host in CERTAUTOPILOT_SERVER_HOSTS (server.hosts)";
    throw new Refusal("host_refused", "the request's Host is no name of this server", hint);
  }
  if (!isOwnOrigin(request)) {
    const hint = "this API is for services: leave the Origin header out";
    throw new Refusal("origin_refused", "the request comes from another site's page", hint);
  }
}

function isBatch(body: unknown): boolean {
  return typeof body === "object" && body !== null && "items" in body;
}

/** @throws Refusal `request_invalid` that names the member, never its value. */
function parsed<T>(schema: Schema<T>, body: unknown): T {
  const result = v.safeParse(schema, body, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue) ?? "";
  // Valibot's own messages quote the value received: only ours, which begin with a verb, pass.
  const what = /^(is|must) /.test(issue.message) ? issue.message : "is not of the form that is asked for";
  // A name that nobody asked for may be anything, a secret in the wrong place too.
  const unknown = issue.type === "strict_object" && issue.expected === "never";
  const detail = unknown
    ? "the request has a member that is not known"
    : path === ""
      ? "the request is not an object with the members that are asked for"
      : `${path} ${issue.received === "undefined" ? "is missing" : what}`;
  throw new Refusal(
    "request_invalid",
    detail,
    /^(items\.\d+\.)?id(\.|$)/.test(path) ? ID_HINT : "see /v1/openapi.json, or docs/api.md",
  );
}

function answer(context: Context, outcome: Outcome<object>): Response {
  return "error" in outcome ? problemAnswer(outcome.error) : context.json(outcome);
}

function failed(thrown: unknown, log: Log | undefined): Response {
  if (thrown instanceof Refusal) return problemAnswer(thrown.problem, thrown.headers);
  log?.warn(`API: unexpected error: ${messageOf(thrown)}`);
  return problemAnswer(problemOf(thrown, "encrypt"));
}

function problemAnswer(problem: Problem, headers: Record<string, string> = {}): Response {
  const later = problem.status === 503 ? { "retry-after": String(RETRY_AFTER_S) } : {};
  return new Response(JSON.stringify(problem), {
    status: problem.status,
    headers: { "content-type": PROBLEM_JSON, ...later, ...headers },
  });
}
