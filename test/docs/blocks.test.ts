import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Block, blocksOf, commandsIn } from "./page.ts";
import { PAGES } from "./pages.ts";
import { below, usageOf } from "./usage.ts";

/** Every page there is: no command line that nothing runs, no flag that there is not, no link that leads nowhere. */

const ROOT = join(import.meta.dir, "../..");
/** What an operator or a service's developer reads. */
const pages = ["README.md", ...["docs", "deploy", "examples"].flatMap(pagesBelow)];
const text = (page: string) => readFileSync(join(ROOT, page), "utf8");
const blocks = pages.flatMap((page) => blocksOf(page, text(page)).map((block) => ({ page, ...block })));
const commands = (block: Block) => ["sh", "js", "bash", "shell", "console"].includes(block.language);

/** What no test runs, and how often: who adds to it says why here too. */
const NOT_RUN: Record<string, number> = {
  "needs the network": 2,
  "needs a mirror of Debian": 1,
  "needs mongodump": 1,
  "needs a Kubernetes cluster": 1,
  "needs an install of its own": 2,
  "needs an AWS CloudHSM": 3,
  "needs Kryoptic": 2,
  "needs openCryptoki": 1,
  "needs a Thales Luna HSM": 2,
  "needs a YubiHSM 2": 2,
  "needs a token that is damaged": 1,
};

test("a command line is run with its page, by another test, or is listed here with its reason", () => {
  const left = blocks.filter(
    ({ page, marks, ...block }) =>
      commands({ marks, ...block }) && !PAGES.includes(page) && !marks.has("run by") && !marks.has("not run"),
  );
  expect(left.map(({ page, line }) => `${page}:${line}`)).toEqual([]);
  const reasons: Record<string, number> = {};
  for (const { marks } of blocks) {
    const reason = marks.get("not run");
    if (reason !== undefined) reasons[reason] = (reasons[reason] ?? 0) + 1;
  }
  expect(reasons).toEqual(NOT_RUN);
});

test("a test that is said to run a block is there; a page that is has the same lines", () => {
  const faults = blocks.flatMap(({ page, line, marks, text: script }) => {
    const by = marks.get("run by");
    if (by === undefined) return [];
    if (!existsSync(join(ROOT, by))) return [`${page}:${line}: there is no ${by}`];
    if (!by.endsWith(".md")) return [];
    const there = blocks.filter((block) => block.page === by).flatMap((block) => linesOf(block.text));
    return linesOf(script).flatMap((each) => (there.includes(each) ? [] : [`${page}:${line}: ${by} lacks ${each}`]));
  });
  expect(faults).toEqual([]);
});

test("each command named anywhere is one that the program has, with flags that it has", () => {
  const faults = pages.flatMap((page) =>
    commandsIn(text(page), blocksOf(page, text(page))).flatMap((words) => {
      const fault = faultOf(words);
      return fault === undefined ? [] : [`${page}: certautopilot ${words.join(" ")}: ${fault}`];
    }),
  );
  expect(faults).toEqual([]);
});

test("each link within the project leads to a page, and to a heading of it", () => {
  const broken = pages.flatMap((page) =>
    [...text(page).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g)].flatMap(([whole, path = "", anchor]) => {
      const file = path === "" ? page : join(dirname(page), path);
      if (!existsSync(join(ROOT, file))) return [`${page}: ${whole}`];
      return anchor === undefined || anchorsOf(file).includes(anchor) ? [] : [`${page}: ${whole}`];
    }),
  );
  expect(broken).toEqual([]);
});

// ---------------------------------------------------------------------------------------------------------------------

function pagesBelow(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md") && !name.includes("node_modules"))
    .map((name) => join(folder, name));
}

/** Commands alone, and whatever the numbers of versions are. */
function linesOf(script: string): string[] {
  return script
    .split("\n")
    .map((line) => line.replace(/ *#.*$/, "").replaceAll(/\d+/g, "N"))
    .filter((line) => line !== "");
}

function faultOf(words: string[]): string | undefined {
  const path: string[] = [];
  let rest = words;
  for (;;) {
    const known = below(path);
    const [word = ""] = rest;
    if (known.length === 0 || (path.length === 0 && ["--version", "--help"].includes(word))) break;
    if (!known.includes(word)) return `no command "${word}"`;
    path.push(word);
    rest = rest.slice(1);
  }
  const flags = rest.flatMap((word) => /^--[a-z0-9-]+/.exec(word)?.[0] ?? []);
  const unknown = flags.find((flag) => !USUAL.includes(flag) && !new RegExp(`^ +${flag}[= ]`, "m").test(usageOf(path)));
  return unknown === undefined ? undefined : `no flag ${unknown}`;
}

/** What --help does not list. */
const USUAL = ["--help", "--version"];

/** As GitHub makes them of headings. */
function anchorsOf(file: string): string[] {
  return [...text(file).matchAll(/^#+ (.*)$/gm)].map((match) =>
    (match[1] as string)
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}
