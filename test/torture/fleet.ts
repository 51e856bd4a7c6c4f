import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

/** The processes of one schedule: services, `serve`, and whatever the operator runs. Started, paused, killed, and named. */

const ROOT = join(import.meta.dir, "../..");
const BUN = join(ROOT, "node_modules/.bin/bun");

export type Variables = Record<string, string>;

export interface Part {
  name: string;
  child: ChildProcess;
  /** When it was started, by the clock. */
  began: Date;
  exited: Promise<Ended>;
  stdout(): string;
  stderr(): string;
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  at: Date;
}

export class Fleet {
  readonly services: Part[] = [];
  readonly serving: Part[] = [];
  readonly coordinators: Part[] = [];
  /** Names of members that died without leaving: an operator takes them off the roster. */
  readonly dead = new Set<string>();
  /** The tree whose sources run; undefined: the compiled binary, and the library beside it. */
  readonly #tree: string | undefined;
  readonly #variables: Variables;
  #joined = 0;
  readonly #backupFlag: string[];
  /** Whether the program has `kek field`. */
  readonly hasField: boolean;

  constructor(variables: Variables, tree: string | undefined) {
    this.#variables = variables;
    this.#tree = tree;
    this.#backupFlag = this.#help("kek", "rotate").includes("--no-backup-check") ? ["--no-backup-check"] : [];
    this.hasField = /\bfield\b/.test(this.#help("kek"));
  }

  /** @param mode see service.ts. */
  service(mode: "seed" | "traffic" | "verify", more: Variables): Part {
    this.#joined += 1;
    const name = `${mode}-${this.#joined}`;
    const variables = {
      ...this.#variables,
      CERTAUTOPILOT_INSTANCE_NAME: name,
      TORTURE_MODE: mode,
      TORTURE_TREE: mode === "traffic" ? (this.#tree ?? ROOT) : ROOT,
      ...more,
    };
    const part = this.#start(name, [BUN, join(import.meta.dir, "service.ts")], variables);
    if (mode === "traffic") this.services.push(part);
    return part;
  }

  serve(): Part {
    this.#joined += 1;
    const name = `serve-${this.#joined}`;
    const part = this.#start(name, [...this.#program(), "serve"], {
      ...this.#variables,
      CERTAUTOPILOT_INSTANCE_NAME: name,
    });
    this.serving.push(part);
    return part;
  }

  /** A command in the operator's shell. */
  command(words: string[], more: Variables = {}): Part {
    return this.#start(words.join(" "), [...this.#program(), ...words, "--json"], { ...this.#variables, ...more });
  }

  rotate(words: string[], more: Variables = {}): Part {
    const part = this.command(["kek", "rotate", ...words, ...this.#backupFlag], more);
    this.coordinators.push(part);
    return part;
  }

  kill(part: Part): void {
    if (part.child.exitCode !== null || part.child.signalCode !== null) return;
    this.dead.add(part.name);
    part.child.kill("SIGCONT");
    part.child.kill("SIGKILL");
  }

  async pause(part: Part, ms: number): Promise<void> {
    part.child.kill("SIGSTOP");
    await Bun.sleep(ms);
    part.child.kill("SIGCONT");
  }

  living(parts: Part[]): Part[] {
    return parts.filter(({ child }) => child.exitCode === null && child.signalCode === null);
  }

  /** @returns names of those that did not end in time, and were killed. */
  async end(parts: Part[], withinMs: number): Promise<string[]> {
    const late: string[] = [];
    await Promise.all(
      this.living(parts).map(async (part) => {
        part.child.kill("SIGCONT");
        part.child.kill("SIGTERM");
        const timer = setTimeout(() => {
          late.push(`${part.name} (${part.stderr().trim().split("\n").at(-1)})`);
          this.kill(part);
        }, withinMs);
        await part.exited;
        clearTimeout(timer);
      }),
    );
    return late;
  }

  killAll(): void {
    for (const part of [...this.services, ...this.serving, ...this.coordinators]) this.kill(part);
  }

  // -------------------------------------------------------------------------------------------------------------------

  #program(): string[] {
    if (this.#tree !== undefined) return [BUN, join(this.#tree, "src/main.ts")];
    const binary = join(ROOT, "dist/certautopilot");
    if (!existsSync(binary)) throw new Error("dist/certautopilot is missing: run ./scripts/build");
    return [binary];
  }

  #help(...words: string[]): string {
    const [command = "", ...before] = this.#program();
    const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "" };
    const { stdout, stderr } = spawnSync(command, [...before, ...words, "--help"], { encoding: "utf8", env });
    return stdout + stderr;
  }

  #start(name: string, [command, ...words]: string[], variables: Variables): Part {
    const base = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "" };
    // An empty one takes out what all processes have.
    const env = Object.fromEntries(Object.entries({ ...base, ...variables }).filter(([, value]) => value !== ""));
    const child = spawn(command as string, words, {
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    const exited = new Promise<Ended>((resolve) =>
      child.once("close", (code, signal) => resolve({ code, signal, at: new Date() })),
    );
    return { name, child, began: new Date(), exited, stdout: () => stdout, stderr: () => stderr };
  }
}
