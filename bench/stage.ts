import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MongoClient } from "mongodb";
import { type PrivateMongod, startPrivateMongod } from "../src/demo/private_mongod.ts";

/** What every measurement stands on: a mongod of its own, the compiled binary, and databases one after the other. */

const ROOT = join(import.meta.dir, "..");
export const BINARY = join(ROOT, "dist/certautopilot");
export const KEKS = { 1: randomBytes(32), 2: randomBytes(32) };
/** The field of every record here. */
export const FIELD = { collection: "secrets", path: "value" };

export type Variables = Record<string, string>;

export interface Stage {
  directory: string;
  mongod: PrivateMongod;
  client: MongoClient;
}

export async function withStage<T>(work: (stage: Stage) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-bench-"));
  // Whatever is made for a moment, tokens too, goes with it.
  process.env["TMPDIR"] = directory;
  const mongod = await startPrivateMongod(directory);
  const client = new MongoClient(mongod.uri);
  const clear = async () => {
    for (const child of running) child.kill("SIGKILL");
    await mongod.stop();
    // Ctrl-C reaches mongod too: a client that looks for it would do so for half a minute.
    await Promise.race([client.close(), Bun.sleep(1000)]);
    rmSync(directory, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, () => {
      say("stopping");
      clear().finally(() => process.exit(signal === "SIGINT" ? 130 : 143));
    });
  try {
    return await work({ directory, mongod, client });
  } finally {
    await clear();
  }
}

/** The settings of a process whose keys are in memory. */
export function variablesOf(stage: Stage, database: string, current: 1 | 2): Variables {
  return {
    PATH: process.env["PATH"] ?? "",
    CERTAUTOPILOT_DATABASE_URI: stage.mongod.uri,
    CERTAUTOPILOT_DATABASE_NAME: database,
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-this-run",
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
    CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(current),
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: KEKS[1].toString("hex"),
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: KEKS[2].toString("hex"),
    CERTAUTOPILOT_FIELDS: `${FIELD.collection}:${FIELD.path}`,
  };
}

export interface Ran {
  seconds: number;
  code: number | null;
  stdout: string;
  stderr: string;
  /** The most memory that it held at once, in MB; NaN where the system does not tell. */
  peakMb: number;
  /** On any processor, of all its threads. */
  processorSeconds: number;
}

/** Runs the binary to its end. */
export async function run(words: string[], variables: Variables): Promise<Ran> {
  const began = performance.now();
  const child = owned(spawn(BINARY, words, { env: variables, stdio: ["ignore", "pipe", "pipe"] }));
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].on("data", (chunk: Buffer) => {
      said[name] += chunk.toString();
    });
  }
  let [peakMb, processorSeconds] = [0, 0];
  const sampler = setInterval(() => {
    peakMb = Math.max(peakMb, memoryOf(child.pid as number));
    processorSeconds = Math.max(processorSeconds, processorTime(child.pid as number));
  }, 100);
  const code = await new Promise<number | null>((resolve, reject) =>
    child.once("close", resolve).once("error", reject),
  );
  clearInterval(sampler);
  const seconds = (performance.now() - began) / 1000;
  return { seconds, code, peakMb: peakMb || Number.NaN, processorSeconds, ...said };
}

/** The same, of a command that must succeed. */
export async function succeed(words: string[], variables: Variables): Promise<Ran> {
  const ran = await run(words, variables);
  if (ran.code !== 0) throw new Error(`certautopilot ${words.join(" ")} ended with ${ran.code}: ${ran.stderr}`);
  return ran;
}

export interface Serving {
  pid: number;
  address: string;
  stop(): Promise<void>;
}

/** A `serve` process, ready when this returns. */
export async function serve(variables: Variables): Promise<Serving> {
  const child = owned(spawn(BINARY, ["serve"], { env: variables, stdio: ["ignore", "ignore", "pipe"] }));
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const address = await new Promise<string>((resolve, reject) => {
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => {
      if (said.length < 10_000) said += chunk.toString();
      const found = / is ready on (\S+?),/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    });
    ended.then(() => reject(new Error(said)));
  });
  return {
    pid: child.pid as number,
    address,
    async stop() {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

/** Seconds of processor time that a process has used until now; 0 when it has ended. */
export function processorTime(pid: number): number {
  const fields = ofProcess(pid, "stat").split(") ")[1]?.split(" ") ?? [];
  const TICKS_A_SECOND = 100;
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / TICKS_A_SECOND;
}

/** The most memory that a process has held, in MB; 0 when it has ended. */
export function memoryOf(pid: number): number {
  const kb = /VmHWM:\s+(\d+)/.exec(ofProcess(pid, "status"))?.[1];
  return Math.round(Number(kb ?? 0) / 1024);
}

/** What was written before is on disk now: whoever is measured next finds a mongod that has nothing left to do for the one before. */
export async function settled(stage: Stage): Promise<void> {
  await stage.client.db("admin").command({ fsync: 1 });
}

/** A process that is not to outlive the benchmark, however that ends. */
export function owned<T extends ChildProcess>(child: T): T {
  running.add(child);
  child.once("close", () => running.delete(child));
  return child;
}

/** Progress, for whoever waits. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Of those that were measured. @param rates records, keys or calls a second, by name. */
export function sayRates(what: string, rates: Record<string, number>): void {
  const measured = Object.entries(rates).filter(([, rate]) => Number.isFinite(rate));
  say(`${what}: ${measured.map(([name, rate]) => `${name} ${Math.round(rate)}/s`).join(", ")}`);
}

// ---------------------------------------------------------------------------------------------------------------------

/** A file of a process in proc(5); empty when the process has ended. */
function ofProcess(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch (thrown) {
    const { code } = thrown as { code?: string };
    if (code === "ENOENT" || code === "ESRCH") return "";
    throw thrown;
  }
}

/** What an error, or Ctrl-C, would leave behind. */
const running = new Set<ChildProcess>();
