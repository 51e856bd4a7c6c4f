import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EXIT } from "../../src/errors/errors.ts";
import { leavesBelow, usageOf } from "./usage.ts";

/** docs/commands.md, held against what the program says of itself: each command, each of its flags, each exit code. */

const page = readFileSync(join(import.meta.dir, "../../docs/commands.md"), "utf8");
const commands = leavesBelow([]);
const COMMON = ["--config=FILE", "--debug", "--json"];

test("each command has a section with exactly the flags of its --help", () => {
  expect(commands.length).toBeGreaterThan(8);
  const shown = commands.map((words) => ({ command: words.join(" "), flags: flagsOf(usageOf(words)) }));
  const told = commands.map((words) => ({ command: words.join(" "), flags: flagsTold(words.join(" ")) }));
  expect(told).toEqual(shown);
});

test("no section is about a command that there is not", () => {
  const names = commands.map((words) => words.join(" "));
  const headings = [...page.matchAll(/^## (.*)$/gm)].map((match) => match[1] as string);
  expect(headings.filter((heading) => heading !== "Exit codes").sort()).toEqual(names.sort());
});

test("the exit codes are the program's", () => {
  const rows = [...section("Exit codes").matchAll(/^\| (\d+) \| ([a-z]+) \|/gm)];
  expect(Object.fromEntries(rows.map(([, code, name]) => [name, Number(code)]))).toEqual(EXIT);
});

test("the flags of every command stand at its top", () => {
  for (const flag of COMMON) expect(page.slice(0, page.indexOf("## "))).toContain(`\`${flag}\``);
});

// ---------------------------------------------------------------------------------------------------------------------

function flagsOf(usage: string): string[] {
  return [...usage.matchAll(/^ +(--[a-z0-9-]+)(?:=<([^>]+)>)? {2,}/gm)]
    .map(([, name, value]) => (value === undefined ? name : `${name}=${value}`) as string)
    .filter((flag) => !COMMON.includes(flag))
    .sort();
}

function flagsTold(command: string): string[] {
  return [...section(command).matchAll(/^\| `(--[a-z0-9-]+(?:=[^`]+)?)`/gm)].map((match) => match[1] as string).sort();
}

function section(heading: string): string {
  const from = page.indexOf(`\n## ${heading}\n`);
  if (from === -1) return "";
  const next = page.indexOf("\n## ", from + 1);
  return page.slice(from, next === -1 ? undefined : next);
}
