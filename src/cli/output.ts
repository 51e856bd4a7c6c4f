import process from "node:process";
import { createConsola } from "consola";
import { dumbTerminal, noColour } from "../config/environment.ts";
import { EXIT, KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { askYesNo, readSecret } from "./prompt.ts";
import { type Screen, screenOfStdout } from "./screen.ts";

/**
 * What a person or a program gets to see. The contract:
 * - stdout holds results only: text for people, or with --json exactly one JSON document, one a line where it continues;
 * - stderr holds logs, progress and prompts;
 * - an error is one `error:` line that names the thing, then a `hint:` line with what to do.
 * The only importer of consola.
 */
export interface Output {
  readonly json: boolean;
  /** Whether a person looks at stderr on a terminal that can redraw. */
  readonly live: boolean;
  readonly log: Log;
  /** The terminal that results go to; undefined for a file, a pipe, and with --json. */
  readonly screen: Screen | undefined;
  /** The result: `text` for people, `data` with --json. */
  result(text: string, data: unknown): void;
  /** One of many results: a line of text, or of JSON. */
  line(text: string, data: unknown): void;
  /** Says that the result itself is bad: the error's lines, beside a result that was given. @returns the exit code. */
  complain(error: KekError): number;
  /** Asks on the terminal. Not asked, and taken as yes, where nobody can answer. @throws KekError `cancelled` on Ctrl-C. */
  confirm(question: string): Promise<boolean>;
  /** Asks for a secret on the terminal, showing nothing of it. @returns undefined where nobody can answer, or nothing is. */
  askSecret(question: string): Promise<string | undefined>;
  /** Overwrites the line last drawn; nothing where the terminal is not live. */
  draw(line: string): void;
}

export function createOutput(json: boolean): Output {
  const live = process.stderr.isTTY === true && !noColour() && !dumbTerminal();
  const shown = createConsola({
    level: 3,
    stdout: process.stderr,
    stderr: process.stderr,
    // Its own would put `[log]` before each line wherever a variable CI, or NODE_ENV=test, is set.
    reporters: [{ log: ({ args }) => void process.stderr.write(`${args.join(" ")}\n`) }],
  });
  let drawn = false;
  const clear = () => {
    if (drawn) process.stderr.write("\r\x1b[2K");
    drawn = false;
  };
  return {
    json,
    live,
    screen: json ? undefined : screenOfStdout(),
    log: {
      info(message) {
        clear();
        shown.log(message);
      },
      warn(message) {
        clear();
        shown.log(`warning: ${message}`);
      },
    },
    result(text, data) {
      clear();
      process.stdout.write(json ? `${JSON.stringify(data, null, 2)}\n` : text === "" ? "" : `${text}\n`);
    },
    line(text, data) {
      clear();
      process.stdout.write(`${json ? JSON.stringify(data) : text}\n`);
    },
    complain(error) {
      clear();
      return printError(error);
    },
    async confirm(question) {
      if (process.stdin.isTTY !== true || process.stderr.isTTY !== true) return true;
      clear();
      return await askYesNo(question);
    },
    async askSecret(question) {
      if (process.stdin.isTTY !== true || process.stderr.isTTY !== true) return undefined;
      clear();
      return await readSecret(question);
    },
    draw(line) {
      if (!live) return;
      clear();
      process.stderr.write(line.slice(0, (process.stderr.columns ?? 80) - 1));
      drawn = true;
    },
  };
}

/** Prints an error as the contract says. @returns the exit code. */
export function reportError(thrown: unknown, options: { json: boolean; debug: boolean }): number {
  const error =
    thrown instanceof KekError
      ? thrown
      : new KekError(
          "unexpected",
          messageOf(thrown),
          "this is a defect: run it again with --debug and report what it prints",
        );
  const problems = (thrown as { problems?: { message: string; hint: string }[] }).problems;
  if (problems !== undefined && problems.length > 1) {
    for (const problem of problems) process.stderr.write(`problem: ${problem.message}\n   next: ${problem.hint}\n`);
  }
  const code = printError(error);
  if (options.debug && thrown instanceof Error) {
    for (let at: unknown = thrown; at instanceof Error; at = at.cause)
      process.stderr.write(`${at.stack ?? at.message}\n`);
  }
  if (options.json) {
    const { message, hint } = error;
    const data = { code: error.code, message, hint, exit: code, ...(problems === undefined ? {} : { problems }) };
    process.stdout.write(`${JSON.stringify({ error: data }, null, 2)}\n`);
  }
  return code;
}

function printError(error: KekError): number {
  // Names in it come from databases and archives, and must not speak to the terminal.
  const oneLine = (text: string) => text.replaceAll(/\s*\n\s*/g, " ").replaceAll(/\p{Cc}/gu, "?");
  process.stderr.write(`error: ${oneLine(error.message)}\nhint: ${oneLine(error.hint)}\n`);
  return EXIT[error.exit];
}
