import { type ChildProcess, spawn } from "node:child_process";
import { childEnvironment } from "../config/environment.ts";
import { selfCommand } from "../config/runtime.ts";
import { KekError } from "../errors/errors.ts";

/** Starts this program as child processes. Keys travel in the environment or the secrets file, never in argv. */

export interface Served {
  name: string;
  child: ChildProcess;
  exited: Promise<number | null>;
}

/** A `serve` process, ready when this returns. @throws KekError when it ends before that. */
export async function startServe(
  name: string,
  role: "api" | "worker",
  variables: Record<string, string>,
): Promise<Served> {
  const [command, ...words] = selfCommand();
  const env = childEnvironment({
    ...variables,
    CERTAUTOPILOT_INSTANCE_NAME: name,
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
  });
  const child = spawn(command, [...words, "serve", `--role=${role}`], { env, stdio: ["ignore", "ignore", "pipe"] });
  const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
  let said = "";
  const ready = new Promise<void>((resolve) => {
    child.stderr?.on("data", (chunk: Buffer) => {
      if (said.length < 10_000) said += chunk.toString();
      if (said.includes(" is ready on ")) resolve();
    });
  });
  const failed = exited.then((code) => {
    throw new KekError(
      "unexpected",
      `${name} ended with exit code ${code} before it was ready: ${said.trim()}`,
      "report this",
    );
  });
  failed.catch(() => undefined);
  await Promise.race([ready, failed]);
  return { name, child, exited };
}

export async function stopServe(served: Served): Promise<void> {
  served.child.kill("SIGTERM");
  await served.exited;
}

/**
 * Runs a command to its end; what it says on stderr is shown as it comes.
 * @param started gets a way to end the command early.
 * @returns its exit code and stdout.
 */
export async function runSelf(
  argv: string[],
  variables: Record<string, string>,
  started: (end: () => void) => void = () => undefined,
): Promise<{ code: number | null; stdout: string }> {
  const [command, ...words] = selfCommand();
  const child = spawn(command, [...words, ...argv], {
    env: childEnvironment(variables),
    stdio: ["ignore", "pipe", "inherit"],
  });
  started(() => child.kill("SIGKILL"));
  let stdout = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve) => child.once("close", (exit) => resolve(exit)));
  return { code, stdout };
}
