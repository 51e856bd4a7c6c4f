/** A page of the documentation as what is run of it: its fenced blocks, and what the comments above them say. Pure. */

export interface Block {
  /** Line of the fence, from 1. */
  line: number;
  /** The word after the fence: `sh` is run, `text` right after it is what it prints, others are files and examples. */
  language: string;
  text: string;
  /** From the comments right above: `<!-- exit: 3 -->` is `exit` → `3`. Readers do not see them. */
  marks: Map<string, string>;
  /** Whether it stands right below the block before it, with no words between. */
  follows: boolean;
}

/** What a comment above a block may say. */
export const MARKS = {
  /** From here on the page is about this host. */
  host: "name",
  /** What the test does before: what an operator does elsewhere, or what goes wrong. */
  scene: "name of a scene",
  /** The exit code of the last command; 0 unless told. */
  exit: "number",
  /** What is typed at its questions, with commas. */
  types: "words",
  /** It continues until Ctrl-C, which comes after so many seconds. */
  "ctrl-c": "seconds",
  /** Another test runs it, and holds the page to it. */
  "run by": "file",
  /** Nothing runs it. The reasons, and how many blocks have each, are counted by a test. */
  "not run": "reason",
} as const;

export class PageFault extends Error {}

/** @throws PageFault for a fence without a language, an indented block, or a mark that there is not. */
export function blocksOf(path: string, markdown: string): Block[] {
  const blocks: Block[] = [];
  const fault = (line: number, what: string) => new PageFault(`${path}:${line}: ${what}`);
  let marks = new Map<string, string>();
  let open: Block | undefined;
  let indent = "";
  let before = "";
  let wordsSince = true;
  markdown.split("\n").forEach((raw, index) => {
    const line = index + 1;
    const fence = /^( *)```(.*)$/.exec(raw);
    if (open !== undefined) {
      if (fence?.[2] === "" && fence[1] === indent) {
        blocks.push(open);
        open = undefined;
      } else {
        open.text += `${raw.startsWith(indent) ? raw.slice(indent.length) : raw}\n`;
      }
      before = raw;
      return;
    }
    const comment = /^ *<!-- ([a-z-]+(?: [a-z]+)?): (.*) -->$/.exec(raw);
    if (fence !== null) {
      const [, spaces = "", language = ""] = fence;
      if (language === "") throw fault(line, "a fenced block says what it is: sh, text, yaml, …");
      open = { line, language, text: "", marks, follows: !wordsSince };
      wordsSince = false;
      indent = spaces;
      marks = new Map();
    } else if (comment !== null) {
      const [, name = "", value = ""] = comment;
      if (!Object.hasOwn(MARKS, name))
        throw fault(line, `there is no mark "${name}": ${Object.keys(MARKS).join(", ")}`);
      marks.set(name, value);
    } else if (raw.trim() !== "") {
      wordsSince = true;
      if (marks.size > 0) throw fault(line, `a mark stands right above its block: ${[...marks.keys()].join(", ")}`);
      if (/^ {4}\S/.test(raw) && before.trim() === "")
        throw fault(line, "an indented block: fence it, and say what it is");
    }
    before = raw;
  });
  return blocks;
}

/** What a page has as commands of this program, as words: in its shell blocks, and in its prose between backticks. */
export function commandsIn(markdown: string, blocks: Block[]): string[][] {
  const shell = blocks.filter(({ language }) => language === "sh").map(({ text }) => text.replaceAll(/\\\n\s*/g, " "));
  const prose = markdown.replaceAll(/^ *```[\s\S]*?^ *```$/gm, "");
  const spans = [...prose.matchAll(/`([^`\n]+)`/g)].map((match) => match[1] as string);
  return [
    ...shell.flatMap((text) => [
      ...text.replaceAll(/#.*$/gm, "").matchAll(/(?:^ *|[;|&(] *|sudo )certautopilot( [^\n;|&)>]*)/gm),
    ]),
    ...spans.flatMap((text) => [
      ...text.matchAll(/^(?:certautopilot )((?:[a-z]|--)[^|…]*)$|^((?:kek|audit) [^|…]*)$/g),
    ]),
  ].map(([, first, second]) => (first ?? second ?? "").trim().split(/ +/));
}
