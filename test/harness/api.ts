import { expect } from "bun:test";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { addressOf } from "./hsm_install.ts";
import type { Running, Variables } from "./program.ts";

/** A client of the API as another program is one: HTTP and JSON, nothing of the product's. */

export interface ApiToken {
  token: string;
  path: string;
  variables: Variables;
}

/** A token in a file of mode 0600, and the variable that switches the API on with it. */
export function apiToken(directory: string): ApiToken {
  const token = randomBytes(24).toString("base64url");
  const path = join(directory, `token-${randomBytes(4).toString("hex")}`);
  writeFileSync(path, `${token}\n`, { mode: 0o600 });
  return { token, path, variables: { CERTAUTOPILOT_API_TOKEN_FILE: path } };
}

export interface Answered {
  status: number;
  headers: Headers;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: results are compared, not used
  body: any;
}

export interface ApiClient {
  /** POST /v1/<path> with a body, as JSON unless it is text or bytes. */
  post(path: string, body: unknown, headers?: Record<string, string | undefined>): Promise<Answered>;
  ask(method: string, path: string, headers?: Record<string, string>): Promise<Answered>;
}

/** @param more options of Bun's fetch: `unix`, `tls`. */
export function apiClient(where: Running | string, token: string, more: BunFetchRequestInit = {}): ApiClient {
  const base = typeof where === "string" ? where : addressOf(where);
  const send = async (path: string, init: BunFetchRequestInit): Promise<Answered> => {
    const response = await fetch(`${base}${path}`, { signal: AbortSignal.timeout(30_000), ...more, ...init });
    const text = await response.text();
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch {
      body = undefined;
    }
    return { status: response.status, headers: response.headers, text, body };
  };
  return {
    async post(path, body, headers = {}) {
      const raw = typeof body === "string" || body instanceof Uint8Array || body instanceof ReadableStream;
      const all: Record<string, string | undefined> = {
        authorization: `Bearer ${token}`,
        "content-type": "application/json",
        ...headers,
      };
      const given = Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined);
      return await send(`/v1/${path}`, { method: "POST", headers: given, body: raw ? body : JSON.stringify(body) });
    },
    ask: (method, path, headers = {}) => send(path, { method, headers }),
  };
}

export const base64 = (text: string | Uint8Array) => Buffer.from(text as string).toString("base64");

/** A problem document of RFC 9457, with a hint, and nothing from inside or secret in it. */
export function expectProblem(answered: Answered, status: number, code: string, secrets: string[] = []): void {
  expect({ status: answered.status, code: answered.body?.code, text: answered.text }).toEqual({
    status,
    code,
    text: expect.any(String),
  });
  expect(answered.headers.get("content-type")).toBe("application/problem+json");
  expectProblemDocument(answered.body, status, code);
  if (status === 503) expect(answered.headers.get("retry-after")).toMatch(/^\d+$/);
  const all = `${answered.text}${JSON.stringify([...answered.headers])}`;
  for (const secret of secrets) expect(all).not.toContain(secret);
  expect(all).not.toMatch(/node_modules|\bat \S+ \(|\.ts:\d|bunfs/);
}

export function expectProblemDocument(problem: unknown, status: number, code: string): void {
  expect(problem).toEqual({
    type: `urn:certautopilot:problem:${code}`,
    title: expect.stringMatching(/\S/),
    status,
    detail: expect.stringMatching(/\S/),
    hint: expect.stringMatching(/\S/),
    code,
  });
}
