import { afterAll, expect } from "bun:test";
import { type ChildProcess, spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Document } from "mongodb";
import {
  FAST,
  type Ran,
  type Running,
  type Runtime,
  run,
  start,
  testInstall,
  until,
  type Variables,
} from "./program.ts";
import { type TestToken, testToken } from "./token.ts";

/** An install whose KEKs live in a SoftHSM token of its own, and what is asked of its token and its processes. */

const ROOT = join(import.meta.dir, "../..");

export interface HsmInstall {
  db: Awaited<ReturnType<typeof testInstall>>["db"];
  uri: string;
  name: string;
  token: TestToken;
  /** Variables of a process that declares a version, or none. */
  variables(current?: number, over?: Variables): Variables;
  /** `kek …` in the operator's shell, with --json. */
  kek(words: string[], current?: number, over?: Variables, runtime?: Runtime): Promise<Ran>;
  /** A `serve` process, ready when this returns. */
  serve(name: string, current: number, more?: ServeOptions): Promise<Running>;
  /** A service that uses the library; see test/e2e/fixtures/hsm_service.ts. */
  service(current: number, over?: Variables): Promise<Service>;
}

export interface ServeOptions {
  over?: Variables;
  flags?: string[];
  runtime?: Runtime;
}

/** A fresh database and a fresh token. Nothing is in either. */
export async function hsmInstall(times: Partial<typeof FAST> = {}, token = testToken()): Promise<HsmInstall> {
  const base = await testInstall({ ...FAST, ...times });
  afterAll(() => rmSync(token.directory, { recursive: true, force: true }));
  // A process that is killed in a transaction leaves it open for MongoDB's 60 s.
  await base.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
  const variables: HsmInstall["variables"] = (current, over = {}) => {
    const declared = current === undefined ? {} : { CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(current) };
    return { ...base.variables([], undefined as never), ...declared, ...token.variables, ...over };
  };
  return {
    db: base.db,
    uri: base.uri,
    name: base.name,
    token,
    variables,
    kek: (words, current, over, runtime) => run(["kek", ...words, "--json"], variables(current, over), runtime),
    async serve(instance, current, { over = {}, flags = [], runtime = "binary" } = {}) {
      const named = { CERTAUTOPILOT_INSTANCE_NAME: instance, ...over };
      const running = start(["serve", ...flags], variables(current, named), runtime);
      await running.says(" is ready on ");
      return running;
    },
    service: (current, over = {}) =>
      startService(variables(current, { CERTAUTOPILOT_INSTANCE_NAME: "service", ...over })),
  };
}

/** An install with version 1 active, `count` secrets under it, and these versions staged besides. */
export async function seededHsm(count: number, staged: number[] = [2], times: Partial<typeof FAST> = {}) {
  const install = await hsmInstall(times);
  await made(install, 1);
  const service = await install.service(1);
  if (count > 0) await service.ask({ seed: count });
  await service.leave();
  for (const version of staged) await made(install, version);
  return install;
}

/** `pkcs11-init` of a version, which must work. */
export async function made(install: HsmInstall, version: number, over?: Variables): Promise<Ran> {
  const ran = await install.kek(["pkcs11-init", `--version=${version}`], undefined, over);
  expect({ code: ran.code, stderr: ran.stderr }).toEqual({ code: 0, stderr: expect.any(String) });
  return ran;
}

// ---------------------------------------------------------------------------------------------------------------------

export interface Service {
  pid: number;
  /** Sends one order and waits for its answer. */
  // biome-ignore lint/suspicious/noExplicitAny: answers are compared, not used
  ask(order: Order): Promise<any>;
  /** Leaves the fleet, and ends. */
  leave(): Promise<void>;
  kill(): void;
}

export type Order =
  | { seed: number; collection?: string; first?: number }
  | { right: true; collection?: string }
  | { traffic: "start" | "stop" }
  | { encrypt: string; id: number }
  | { decrypt: number };

const services = new Set<ChildProcess>();

/** Starts the service under Bun; returns when it is a member of the fleet. */
async function startService(variables: Variables): Promise<Service> {
  afterAll(() => {
    for (const child of services) child.kill("SIGKILL");
  });
  const words = [join(ROOT, "test/e2e/fixtures/hsm_service.ts")];
  const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...variables };
  const child = spawn(join(ROOT, "node_modules/.bin/bun"), words, { env, cwd: ROOT });
  services.add(child);
  let stdout = "";
  let stderr = "";
  let ended = false;
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const exited = new Promise<void>((resolve) =>
    child.once("close", () => {
      ended = true;
      services.delete(child);
      resolve();
    }),
  );
  let heard = 0;
  const next = async () => {
    const mine = heard++;
    await until(
      "the service answers",
      async () => {
        if (ended) throw new Error(`the service ended: ${stderr}`);
        return stdout.split("\n").length - 1 > mine;
      },
      120_000,
    );
    return JSON.parse(stdout.split("\n")[mine] as string);
  };
  await next();
  return {
    pid: child.pid ?? 0,
    ask(order) {
      child.stdin.write(`${JSON.stringify(order)}\n`);
      return next();
    },
    async leave() {
      child.stdin.end();
      await exited;
    },
    kill: () => void child.kill("SIGKILL"),
  };
}

// ---------------------------------------------------------------------------------------------------------------------

export interface TokenKey {
  label: string;
  id: string;
  access: string;
  usage: string;
}

/** The secret keys in the token, as OpenSC's pkcs11-tool shows them. */
export function keysIn(token: TestToken): TokenKey[] {
  const { output } = token.tool("--list-objects", "--type", "secrkey");
  return output
    .split(/^Secret Key Object/m)
    .slice(1)
    .map((text) => {
      const line = (name: string) => new RegExp(`^ +${name}: +(.*)$`, "m").exec(text)?.[1]?.trim() ?? "";
      return { label: line("label"), id: line("ID"), access: line("Access"), usage: line("Usage") };
    });
}

/** Labels of the KEKs in the token, sorted. */
export function keksIn(token: TestToken): string[] {
  return keysIn(token)
    .map(({ label }) => label)
    .filter((label) => label.startsWith("certautopilot"))
    .sort();
}

export interface Readiness {
  status: number;
  // biome-ignore lint/suspicious/noExplicitAny: results are compared, not used
  body: any;
}

/** Where a `serve` process listens. */
export function addressOf(serving: Running): string {
  return / is ready on (\S+?),/.exec(serving.stderr)?.[1] ?? "";
}

export async function readyz(serving: Running): Promise<Readiness> {
  const response = await fetch(`${addressOf(serving)}/readyz`, { signal: AbortSignal.timeout(10_000) });
  return { status: response.status, body: await response.json() };
}

/** nonce and ciphertext of every seeded record, by _id: what a rewrap must not change. */
export async function payloads(install: HsmInstall, collection = "secrets"): Promise<unknown[]> {
  const records = await install.db.collection<Document>(collection).find().sort({ _id: 1 }).toArray();
  return records.map(({ _id, value }) => [_id, value.nonce.toString("hex"), value.ciphertext.toString("hex")]);
}

/** Every envelope opens for a process of its own, and the audit chain is whole. */
export async function proveHsm(install: HsmInstall, current: number, count: number): Promise<void> {
  const service = await install.service(current, { CERTAUTOPILOT_INSTANCE_NAME: "prover" });
  expect(await service.ask({ right: true })).toEqual({ right: count });
  await service.leave();
  const audit = await run(["audit", "verify", "--json"], install.variables());
  expect(audit.json).toMatchObject({ whole: true, faults: [] });
}
