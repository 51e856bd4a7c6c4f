import type { ArgsDef } from "citty";
import { MAX_SESSIONS } from "../config/schema.ts";
import { KekError } from "../errors/errors.ts";

/** citty accepts unknown, repeated and surplus arguments in silence; here each of them is an error. Pure. */

/** Flags that every command takes. */
export const COMMON = {
  json: { type: "boolean", description: "Print the result as one JSON document on stdout" },
  config: { type: "string", description: "Configuration file", valueHint: "FILE" },
  debug: { type: "boolean", description: "Print stack traces with errors" },
} as const satisfies ArgsDef;

/** Flags that may be given more than once; citty keeps the last value only, so they are collected here. */
export function repeated(argv: string[], flag: string): string[] {
  return argv.flatMap((word, at) => {
    if (word.startsWith(`--${flag}=`)) return [word.slice(flag.length + 3)];
    return word === `--${flag}` ? argv.slice(at + 1, at + 2) : [];
  });
}

/**
 * @param argv the words after the command's own name.
 * @throws KekError `usage`.
 */
export function checkArguments(argv: string[], args: ArgsDef, command: string, mayRepeat: string[] = []): void {
  const seen = new Set<string>();
  const positionals = Object.values(args).filter((arg) => arg.type === "positional").length;
  const fail: (message: string) => never = (message) => {
    throw new KekError("usage", message, `see: certautopilot ${command} --help`.replace("  ", " "));
  };
  let loose = 0;
  for (let at = 0; at < argv.length; at += 1) {
    const word = argv[at] as string;
    if (!word.startsWith("-") || word === "-") {
      loose += 1;
      if (loose > positionals) fail(`unexpected argument${shown(word)}`);
      continue;
    }
    const match = /^--([a-z][a-z0-9-]*)(?:=([\s\S]*))?$/.exec(word);
    const name = match?.[1];
    const arg = name === undefined || !Object.hasOwn(args, name) ? undefined : args[name];
    if (name === undefined || arg === undefined || arg.type === "positional") {
      fail(`unknown flag ${(word.split("=")[0] ?? word).slice(0, 60)}`);
    }
    if (seen.has(name) && !mayRepeat.includes(name)) fail(`--${name} is given twice`);
    seen.add(name);
    const value = match?.[2];
    if (arg.type === "boolean") {
      if (value !== undefined) fail(`--${name} takes no value`);
    } else if (value === undefined) {
      const next = argv[at + 1];
      if (next === undefined || next.startsWith("--"))
        fail(`--${name} needs a value: --${name}=${arg.valueHint ?? "VALUE"}`);
      if (next === "") fail(`--${name} has an empty value`);
      at += 1;
    } else if (value === "") {
      fail(`--${name} has an empty value`);
    }
  }
}

/** A word of the command line, if it is harmless: somebody may have pasted a key or a URI. */
export function shown(word: string): string {
  return /^[\w.-]{1,30}$/.test(word) ? ` ${JSON.stringify(word)}` : "";
}

/** A whole number given as a flag. @throws KekError `usage`. */
export function wholeNumber(name: string, value: string | undefined, min: number, max: number): number | undefined {
  if (value === undefined) return undefined;
  const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
  if (Number.isNaN(number) || number < min || number > max) {
    throw new KekError(
      "usage",
      `--${name}${value.length > 12 ? "" : `=${value}`} is not a whole number from ${min} to ${max}`,
      `give a number, as in --${name}=${Math.max(min, 2)}`,
    );
  }
  return number;
}

/** A flag of the commands that keep an HSM busy. */
export const HSM_SESSIONS = {
  type: "string",
  description: "Sessions with the HSM at most (default: what the token gives, up to 32)",
  valueHint: "N",
} as const;

export function hsmSessions(value: string | undefined): number | undefined {
  return wholeNumber("hsm-sessions", value, 1, MAX_SESSIONS);
}

export function version(name: string, value: string | undefined): number | undefined {
  return wholeNumber(name, value, 1, 2_147_483_647);
}

/** @throws KekError `usage` when a flag that a command cannot do without is missing. */

export function required<T>(value: T | undefined, flag: string, example = "2"): T {
  if (value === undefined) throw new KekError("usage", `--${flag} is missing`, `add it, as in --${flag}=${example}`);
  return value;
}
