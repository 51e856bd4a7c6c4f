import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, EXIT, KekError } from "../../src/errors/errors.ts";
import { codesOf, HOLE, messagesOf, quotes } from "./messages.ts";

/** docs/troubleshooting.md, held against what the sources can say: nothing is missing, nothing is made up. */

const ROOT = join(import.meta.dir, "../..");
const text = (path: string) => readFileSync(join(ROOT, path), "utf8");
const said = messagesOf(join(ROOT, "src"));
const codes = codesOf(text("src/errors/errors.ts"), "ErrorCode") as ErrorCode[];
const page = text("docs/troubleshooting.md");

/** The sections of the page that are about errors: their codes, the exit code that each is said to have, and what is quoted. */
const sections = page
  .split(/^### /m)
  .slice(1)
  .map((section) => {
    const [heading = "", ...body] = section.split("\n");
    const grouped = [...heading.matchAll(/((?:`[a-z_0-9]+`(?:, )?)+) \(exit (\d)\)/g)];
    const told = grouped.flatMap(([, names = "", exit]) => spans(names).map((code) => ({ code, exit: Number(exit) })));
    return { told, quoted: body.filter(isRow).flatMap((row) => spans(cells(row)[0])) };
  });
const problems = page
  .slice(page.indexOf("## What verify"), page.indexOf("## Configuration and arguments"))
  .split("\n")
  .filter(isRow)
  .map((row) => ({ code: spans(cells(row)[0])[0], quoted: spans(cells(row)[1]) }));

test("every code of an error has a section, with the exit code that the program gives it", () => {
  const told = sections.flatMap((section) => section.told);
  const exits = codes.map((code) => ({ code: code as string, exit: EXIT[new KekError(code, "", "").exit] as number }));
  const byCode = (a: { code: string }, b: { code: string }) => a.code.localeCompare(b.code);
  expect(told.sort(byCode)).toEqual(exits.sort(byCode));
});

test("every message of an error is quoted under its code", () => {
  const missing = said.errors.filter(({ code, text: message }) => {
    const section = sections.find(({ told }) => told.some((each) => each.code === code));
    return section?.quoted.some((quoted) => quotes(quoted, message)) !== true;
  });
  expect(missing).toEqual([]);
  expect(said.errors.length).toBeGreaterThan(150);
});

test("every problem that verify, rotate and status list is quoted with its code", () => {
  const missing = said.problems.filter(
    ({ code, text: message }) =>
      !problems.some((row) => row.code === code && row.quoted.some((quoted) => endsAs(quoted, message))),
  );
  expect(missing).toEqual([]);
  expect(said.problems.length).toBeGreaterThan(40);
});

test("what the page quotes is in the sources", () => {
  const quoted = [...sections.flatMap((section) => section.quoted), ...problems.flatMap((row) => row.quoted)];
  const made = quoted.filter((words) => !isSaid(words));
  expect(made).toEqual([]);
});

test("every refusal of the API is in docs/api.md", () => {
  const api = text("docs/api.md");
  const missing = said.refusals.filter(({ code }) => !api.includes(`\`${code}\``));
  expect(missing).toEqual([]);
  expect(said.refusals.length).toBeGreaterThan(10);
});

// ---------------------------------------------------------------------------------------------------------------------

function isRow(line: string): boolean {
  return line.startsWith("| ") && line.includes("`") && !line.startsWith("| ---");
}

function cells(row: string): string[] {
  return row.split(" | ").map((cell) => cell.replace(/^\| /, ""));
}

function spans(cell = ""): string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] as string);
}

/** A problem begins with its process, whose name the sources put in elsewhere. */
function endsAs(quoted: string, message: string): boolean {
  const bare = message.replace(/^[…,\s]+/, "");
  return quoted.replace(/[…\s]+$/, "").endsWith(bare.replace(/[…\s]+$/, ""));
}

/** A message may be put together from several texts: each piece between holes must be one's. */
function isSaid(quoted: string): boolean {
  const pieces = quoted.split(HOLE).map((piece) => piece.trim());
  return pieces.every((piece) => said.texts.some((message) => message.includes(piece)));
}
