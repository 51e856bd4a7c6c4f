import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

/** The compiled program as this test runs it, and what it can do. Where a command is to die at a crash point, the build that has them. */

const ROOT = join(import.meta.dir, "../..");

/** Half a heartbeat of a busy machine must not cost a lease: shorter ones make commands give up, and nothing faster. */
const TIMES = { BEAT: 200, LEASE: 1000, EVICTION: 1500, DRAIN: 50 };
const LIMIT_MS = 120_000;

export interface Ran {
  words: string[];
  code: number | null;
  stderr: string;
  stdout: string;
  tookMs: number;
  /** It was still running after two minutes. */
  hung: boolean;
}

export interface Abilities {
  /** `kek rotate --no-backup-check` */
  noBackupCheck: boolean;
  /** `kek field add`, `kek field remove` */
  field: boolean;
}

export class Program {
  readonly path: string;
  /** The build with crash points. A program that was named is run for those, too: it may be an older one, which has them. */
  readonly #crashPath: string;
  readonly can: Abilities;

  /** @throws Error when there is no such file. */
  constructor(named = process.env["CERTAUTOPILOT_PROPERTY_BINARY"]) {
    const path = named ?? join(ROOT, "dist/certautopilot");
    this.path = path;
    this.#crashPath = named ?? join(ROOT, "dist/certautopilot-crash");
    for (const [each, flag] of [
      [this.path, ""],
      [this.#crashPath, " --crash"],
    ] as const)
      if (!existsSync(each)) throw new Error(`${each} is missing: run ./scripts/build${flag}`);
    const help = (...words: string[]) => {
      const { stdout, stderr } = spawnSync(path, [...words, "--help"], { encoding: "utf8", env: environment({}) });
      return stdout + stderr;
    };
    this.can = {
      noBackupCheck: help("kek", "rotate").includes("--no-backup-check"),
      field: /\bfield\b/.test(help("kek")),
    };
  }

  /**
   * @param onPhase2 runs beside the command once it is in phase 2.
   * @param onRemedy gets the mongosh command that a waiting rotation asks for.
   */
  async run(
    words: string[],
    variables: Record<string, string>,
    onPhase2?: () => Promise<void>,
    onRemedy?: (command: string) => Promise<void>,
  ): Promise<Ran> {
    const began = performance.now();
    const { child, ended, stderr } = this.start(words, variables);
    let beside: Promise<void> | undefined;
    if (onPhase2 !== undefined)
      child.stderr?.on("data", () => {
        if (beside === undefined && stderr().includes("phase 2:")) beside = onPhase2();
      });
    const followed = new Set<string>();
    child.stderr?.on("data", () => {
      for (const [, command = ""] of stderr().matchAll(/waiting: .*; run in mongosh: (.*)\n/g)) {
        if (followed.has(command)) continue;
        followed.add(command);
        beside = Promise.all([beside, onRemedy?.(command)]).then(() => undefined);
      }
    });
    let hung = false;
    const timer = setTimeout(() => {
      hung = true;
      child.kill("SIGKILL");
    }, LIMIT_MS);
    const { code, stdout } = await ended;
    clearTimeout(timer);
    await beside;
    return { words, code, stdout, stderr: stderr(), hung, tookMs: performance.now() - began };
  }

  start(words: string[], variables: Record<string, string>): Started {
    const path = variables["CERTAUTOPILOT_TEST_CRASH_AT"] === undefined ? this.path : this.#crashPath;
    const child = spawn(path, words, { env: environment(variables), stdio: ["ignore", "pipe", "pipe"], cwd: "/" });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    const ended = new Promise<{ code: number | null; stdout: string }>((resolve) =>
      child.once("close", (code) => resolve({ code, stdout })),
    );
    return { child, ended, stderr: () => stderr };
  }
}

export interface Started {
  child: ChildProcess;
  ended: Promise<{ code: number | null; stdout: string }>;
  stderr(): string;
}

/** What every process of one case has in its environment. */
export function variablesOf(uri: string, name: string, keys: ReadonlyMap<number, Buffer>): Record<string, string> {
  return {
    CERTAUTOPILOT_DATABASE_URI: uri,
    CERTAUTOPILOT_DATABASE_NAME: name,
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-the-tests",
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
    ...Object.fromEntries(Object.entries(TIMES).map(([time, ms]) => [`CERTAUTOPILOT_FLEET_${time}_MS`, String(ms)])),
    ...Object.fromEntries(
      [...keys].map(([version, key]) => [`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`, key.toString("hex")]),
    ),
  };
}

function environment(variables: Record<string, string>): Record<string, string> {
  return { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...variables };
}
