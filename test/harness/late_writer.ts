import { afterAll } from "bun:test";
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { type TestInstall, until } from "./program.ts";

const ROOT = join(import.meta.dir, "../..");
const children = new Set<ChildProcess>();
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
});

export interface LateWriter {
  name: string;
  pid: number;
  /** The lines that it has said so far. */
  said(): Record<string, unknown>[];
  kill(signal: NodeJS.Signals): void;
  /** Lets it store what it has encrypted. */
  go(): void;
  exited: Promise<number | null>;
}

/** Starts test/e2e/fixtures/late_writer.ts; returns when it has encrypted, and not stored yet. */
export async function lateWriter(
  install: TestInstall,
  how: "insert" | "update" | "replace",
  id: number,
): Promise<LateWriter> {
  const name = `late-${how}`;
  const variables = install.variables([1, 2], 2, { CERTAUTOPILOT_INSTANCE_NAME: name });
  const child = spawn(
    join(ROOT, "node_modules/.bin/bun"),
    [join(ROOT, "test/e2e/fixtures/late_writer.ts"), how, String(id)],
    { env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...variables }, cwd: ROOT },
  );
  children.add(child);
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const exited = new Promise<number | null>((resolve) =>
    child.once("close", (code) => {
      children.delete(child);
      if (code !== 0) console.error(`${name} ended with ${code}: ${stderr}`);
      resolve(code);
    }),
  );
  const said = () =>
    stdout
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  await until(`${name} has encrypted`, async () => said().length > 0);
  return {
    name,
    pid: child.pid ?? 0,
    said,
    kill: (signal) => void child.kill(signal),
    go: () => void child.stdin.write("go\n"),
    exited,
  };
}
