import { execFileSync } from "node:child_process";
import { BINARY } from "../harness/program.ts";

/** What the program says of itself with --help. */

const usages = new Map<string, string>();

export function usageOf(words: string[]): string {
  const key = words.join(" ");
  const usage = usages.get(key) ?? execFileSync(BINARY, [...words, "--help"], { encoding: "utf8" });
  usages.set(key, usage);
  return usage;
}

/** The commands below a command; none where it does something itself. */
export function below(words: string[]): string[] {
  const listed = /\nCOMMANDS\n\n([\s\S]*?)\n\n/.exec(usageOf(words))?.[1] ?? "";
  return listed.split("\n").flatMap((line) => line.trim().split(/\s+/)[0] || []);
}

/** Every command that does something, as its words. */
export function leavesBelow(words: string[]): string[][] {
  const names = below(words);
  return names.length === 0 ? [words] : names.flatMap((name) => leavesBelow([...words, name]));
}
