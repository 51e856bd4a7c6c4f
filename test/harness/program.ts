import { afterAll } from "bun:test";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { freshDatabase } from "./mongo.ts";

/** Drives the real program: the compiled binary as it is released, the one with crash points, the sources under Bun, or under Deno. */

const ROOT = join(import.meta.dir, "../..");
export const BINARY = join(ROOT, "dist/certautopilot");
/** The same with crash points. */
export const CRASH_BINARY = join(ROOT, "dist/certautopilot-crash");

export type Variables = Record<string, string>;
export type Runtime = "binary" | "crash" | "bun" | "deno";

export interface Ran {
  code: number | null;
  /** What ended it, when it did not end by itself. */
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** stdout as JSON, when it is. */
  // biome-ignore lint/suspicious/noExplicitAny: results are compared, not used
  json: any;
}

export interface Running {
  child: ChildProcess;
  pid: number;
  /** Everything said so far on stderr and stdout. */
  readonly stdout: string;
  readonly stderr: string;
  /** Resolves when stderr holds the text. Rejects when the process ends without having said it. */
  says(text: string | RegExp, timeoutMs?: number): Promise<void>;
  exited: Promise<Ran>;
  kill(signal: NodeJS.Signals): void;
}

function commandOf(runtime: Runtime): [string, ...string[]] {
  if (runtime === "bun") return [join(ROOT, "node_modules/.bin/bun"), join(ROOT, "src/main.ts")];
  if (runtime === "deno")
    return [join(ROOT, "node_modules/.bin/deno"), "run", "-A", "--quiet", join(ROOT, "src/main.ts")];
  if (runtime === "crash") {
    if (!existsSync(CRASH_BINARY)) throw new Error("dist/certautopilot-crash is missing: run ./scripts/build --crash");
    return [CRASH_BINARY];
  }
  if (!existsSync(BINARY)) throw new Error("dist/certautopilot is missing: run ./scripts/build");
  return [BINARY];
}

/** Whatever a failed test has left running. */
const alive = new Set<ChildProcess>();

function endAll(): void {
  for (const child of alive) {
    child.kill("SIGCONT");
    child.kill("SIGKILL");
  }
}

/** Starts the program; only PATH, HOME and `variables` are in its environment. */
export function start(argv: string[], variables: Variables = {}, runtime: Runtime = "binary"): Running {
  return startCommand([...commandOf(runtime), ...argv], variables);
}

/** The same for another program, which in its turn runs this one. */
export function startCommand([command, ...words]: [string, ...string[]], variables: Variables = {}): Running {
  const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...variables };
  const child = spawn(command, words, { env, stdio: ["ignore", "pipe", "pipe"], cwd: "/" });
  alive.add(child);
  let stdout = "";
  let stderr = "";
  const listeners = new Set<() => void>();
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
    for (const listener of [...listeners]) listener();
  });
  const exited = new Promise<Ran>((resolve) => {
    child.once("close", (code, signal) => {
      alive.delete(child);
      let json: unknown;
      try {
        json = JSON.parse(stdout);
      } catch {
        json = undefined;
      }
      resolve({ code, signal, stdout, stderr, json });
    });
  });
  return {
    child,
    pid: child.pid ?? 0,
    get stdout() {
      return stdout;
    },
    get stderr() {
      return stderr;
    },
    exited,
    kill: (signal) => void child.kill(signal),
    async says(text, timeoutMs = 60_000) {
      const has = () => (typeof text === "string" ? stderr.includes(text) : text.test(stderr));
      await new Promise<void>((resolve, reject) => {
        const done = (settle: () => void) => {
          clearTimeout(timer);
          listeners.delete(check);
          settle();
        };
        const check = () => {
          if (has()) done(resolve);
        };
        const timer = setTimeout(
          () => done(() => reject(new Error(`not said in time: ${text}; said: ${stderr}`))),
          timeoutMs,
        );
        listeners.add(check);
        exited.then((ran) =>
          has()
            ? done(resolve)
            : done(() => reject(new Error(`ended with ${ran.code} without saying ${text}: ${stderr}`))),
        );
        check();
      });
    },
  };
}

export async function run(argv: string[], variables: Variables = {}, runtime: Runtime = "binary"): Promise<Ran> {
  return await start(argv, variables, runtime).exited;
}

/** Fleet times that keep tests short; the rule of docs/protocol.md for them holds. */
export const FAST = { beatMs: 200, leaseMs: 1500, evictionMs: 3000, drainMs: 300 };

export function kekHex(): string {
  return randomBytes(32).toString("hex");
}

export interface TestInstall {
  db: Awaited<ReturnType<typeof freshDatabase>>["db"];
  uri: string;
  name: string;
  keks: Record<number, string>;
  /** Variables for a process that holds these versions and declares one of them. */
  variables(versions: number[], current?: number, over?: Variables): Variables;
  /** A `serve` process, ready when this returns. */
  serve(name: string, versions: number[], current: number, over?: Variables, runtime?: Runtime): Promise<Running>;
}

/** A database of its own with keys for versions 1 to 4; nothing is in it until a process starts. @param at see `freshDatabase`. */
export async function testInstall(times: typeof FAST = FAST, at?: string): Promise<TestInstall> {
  const { uri, name, db } = await freshDatabase(at);
  // Registered here and not for the module: a module's hook runs for the first test file of a worker only.
  afterAll(endAll);
  const keks: Record<number, string> = { 1: kekHex(), 2: kekHex(), 3: kekHex(), 4: kekHex() };
  const variables: TestInstall["variables"] = (versions, current, over = {}) => ({
    CERTAUTOPILOT_DATABASE_URI: uri,
    CERTAUTOPILOT_DATABASE_NAME: name,
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-the-tests",
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
    CERTAUTOPILOT_FLEET_BEAT_MS: String(times.beatMs),
    CERTAUTOPILOT_FLEET_LEASE_MS: String(times.leaseMs),
    CERTAUTOPILOT_FLEET_EVICTION_MS: String(times.evictionMs),
    CERTAUTOPILOT_FLEET_DRAIN_MS: String(times.drainMs),
    ...(current === undefined ? {} : { CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(current) }),
    ...Object.fromEntries(
      versions.map((version) => [`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`, keks[version] as string]),
    ),
    ...over,
  });
  return {
    db,
    uri,
    name,
    keks,
    variables,
    async serve(instance, versions, current, over = {}, runtime = "binary") {
      const running = start(
        ["serve"],
        variables(versions, current, { CERTAUTOPILOT_INSTANCE_NAME: instance, ...over }),
        runtime,
      );
      await running.says(" is ready on ");
      return running;
    },
  };
}

export async function stop(...processes: Running[]): Promise<void> {
  for (const running of processes) {
    running.kill("SIGCONT");
    running.kill("SIGTERM");
  }
  await Promise.all(processes.map((running) => running.exited));
}

/** Asks again until it is so. */
export async function until(what: string, holds: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const began = performance.now();
  while (!(await holds())) {
    if (performance.now() - began > timeoutMs) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
