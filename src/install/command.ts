import { execFile } from "node:child_process";
import { childEnvironment } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";

/** Other programs of the host. No secret is ever among their arguments. */

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: Record<string, string>;
  limitMs?: number;
}

/**
 * Runs to the end, whatever it answers, and in English: what it prints is parsed.
 * @returns code 127 when there is no such program.
 */
export async function run([program, ...args]: [string, ...string[]], options: RunOptions = {}): Promise<Ran> {
  const { env = childEnvironment({}), limitMs = 120_000 } = options;
  const english = { ...env, LC_ALL: "C", LANGUAGE: "C" };
  const limits = { timeout: limitMs, maxBuffer: 16 << 20, killSignal: "SIGKILL" as const };
  return await new Promise((resolve) => {
    execFile(program, args, { ...limits, env: english }, (error, stdout, stderr) => {
      const failed = error as { code?: number | string } | null;
      const code =
        failed === null ? 0 : typeof failed.code === "number" ? failed.code : failed.code === "ENOENT" ? 127 : 1;
      resolve({ code, stdout, stderr });
    });
  });
}

/** @throws KekError `refused` with the last line that the program said. */
export async function must(command: [string, ...string[]], options: RunOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await run(command, options);
  if (code === 0) return stdout;
  const said = `${stdout}\n${stderr}`.trim().split("\n").at(-1) ?? "";
  throw new KekError(
    "refused",
    `${command.join(" ")} failed (${code === 127 ? "there is no such program" : `exit ${code}`})${said === "" ? "" : `: ${said}`}`,
    "see what it says, repair it, and run this again",
  );
}
