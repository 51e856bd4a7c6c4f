import { join } from "node:path";
import type { Host } from "./host.ts";
import { BINARY, type Variables } from "./program.ts";

/** The program on a terminal of its own, with somebody who types at it. */

const PYTHON = process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3";

export interface Shown {
  code: number;
  shown: string;
  typed: boolean;
  echo_while_asked: boolean[];
  echo_after: boolean | null;
}

/** Runs the program on a terminal and types at it. @param script pairs of what to wait for and what to type then. */
export async function onTerminal(
  words: string[],
  variables: Variables,
  script: [string, string][],
  size = "80x24",
): Promise<Shown> {
  const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", TERM: "xterm", ...variables };
  const program = [join(import.meta.dir, "on_terminal.py"), JSON.stringify(script), size, "--", BINARY, ...words];
  const child = Bun.spawn([PYTHON, ...program], { env, stdout: "pipe", stderr: "inherit", cwd: "/" });
  return JSON.parse(await new Response(child.stdout).text());
}

/** Types into an interactive shell of a host, on a terminal of its own; at the end the shell prints `code=` and the last exit code. */
export async function onHostTerminal(host: Host, script: [string, string][]): Promise<Shown> {
  const ending: [string, string][] = [["ready> ", "echo code=$?; exit 0\n"]];
  const program = [join(import.meta.dir, "on_terminal.py"), JSON.stringify([...script, ...ending]), "160x48", "--"];
  const bash = [
    "env",
    "-i",
    ...host.login,
    "TERM=xterm",
    "PS1=ready> ",
    "HISTFILE=",
    "bash",
    "--norc",
    "--noprofile",
    "-i",
  ];
  const words = [...program, ...host.onTerminal, ...bash];
  const child = Bun.spawn([PYTHON, ...words], { stdout: "pipe", stderr: "inherit", cwd: "/" });
  return JSON.parse(await new Response(child.stdout).text());
}
