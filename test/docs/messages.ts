import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";

/** What the sources can say to an operator, read from their syntax: errors by code, problems by code, and every text there is. */

/** Stands for whatever a message puts in: a name, a number, another message. */
export const HOLE = "…";

export interface Message {
  code: string;
  /** The text, with a hole for each value. */
  text: string;
  /** File and line, for the test's own message. */
  at: string;
}

export interface Messages {
  /** Of `new KekError(code, message, hint)`. */
  errors: Message[];
  /** Of refusals of the API, which docs/api.md lists. */
  refusals: Message[];
  /** Of what `kek verify`, `kek rotate` and `kek status` list as problems, warnings and reasons. */
  problems: Message[];
  /** Every string and template of the sources. */
  texts: string[];
}

export function messagesOf(directory: string): Messages {
  const found: Messages = { errors: [], refusals: [], problems: [], texts: [] };
  const sources = readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const problemCodes = codesOf(readFileSync(join(directory, "protocol/problem.ts"), "utf8"), "ProblemCode");
  for (const name of sources.sort()) {
    const source = ts.createSourceFile(name, readFileSync(join(directory, name), "utf8"), ts.ScriptTarget.Latest, true);
    const at = (node: ts.Node) => `src/${name}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
    const add = (list: Message[], code: string | undefined, message: ts.Expression | undefined, node: ts.Node) => {
      if (code === undefined || message === undefined) return;
      for (const text of textsOf(message, named)) list.push({ code, text, at: at(node) });
    };
    const named = constantsOf(source);
    const visit = (node: ts.Node): void => {
      if (ts.isStringLiteralLike(node) || ts.isTemplateExpression(node)) found.texts.push(...textsOf(node, named));
      if (ts.isNewExpression(node)) {
        const [code, message] = node.arguments ?? [];
        if (node.expression.getText() === "KekError") add(found.errors, literal(code), message, node);
        if (node.expression.getText() === "Refusal") add(found.refusals, literal(code), message, node);
      }
      if (ts.isCallExpression(node)) {
        const [code, message] = node.arguments;
        const word = literal(code);
        if (word !== undefined && problemCodes.includes(word)) add(found.problems, word, message, node);
      }
      if (ts.isObjectLiteralExpression(node) && property(node, "hint") !== undefined) {
        const word = literal(property(node, "code"));
        if (word !== undefined && problemCodes.includes(word))
          add(found.problems, word, property(node, "message"), node);
      }
      ts.forEachChild(node, visit);
    };
    visit(source);
  }
  return found;
}

/** The members of a union of literals. */
export function codesOf(source: string, type: string): string[] {
  const declared = new RegExp(`type ${type} =([^;]*);`).exec(source)?.[1] ?? "";
  return [...declared.matchAll(/"([a-z_0-9]+)"/g)].map((match) => match[1] as string);
}

/** Whether a quotation of the page is this text: holes at the ends may be left out, for names stand there. */
export function quotes(quoted: string, text: string): boolean {
  const bare = (words: string) => words.replaceAll(/^[…\s]+|[…\s]+$/g, "");
  return bare(quoted) === bare(text);
}

// ---------------------------------------------------------------------------------------------------------------------

function literal(node: ts.Expression | undefined): string | undefined {
  if (node !== undefined && ts.isAsExpression(node)) return literal(node.expression);
  return node !== undefined && ts.isStringLiteralLike(node) ? node.text : undefined;
}

function property(node: ts.ObjectLiteralExpression, name: string): ts.Expression | undefined {
  for (const each of node.properties) {
    if (ts.isPropertyAssignment(each) && each.name.getText() === name) return each.initializer;
    if (ts.isShorthandPropertyAssignment(each) && each.name.text === name) return each.name;
  }
  return undefined;
}

type Constants = Map<string, ts.Expression[]>;

/** What a file's names stand for, where that is said where they are made: a message may have a name of its own. */
function constantsOf(source: ts.SourceFile): Constants {
  const constants: Constants = new Map();
  const visit = (node: ts.Node): void => {
    if (ts.isVariableDeclaration(node) && ts.isIdentifier(node.name) && node.initializer !== undefined) {
      constants.set(node.name.text, [...(constants.get(node.name.text) ?? []), node.initializer]);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return constants;
}

/** Every text that an expression may come to; one that says nothing by itself is left out. */
function textsOf(node: ts.Expression, constants: Constants): string[] {
  const own = ts.isIdentifier(node) ? (constants.get(node.text) ?? []) : [node];
  const texts = own.flatMap(spell).map((text) => text.replaceAll(/…(\s*…)+/g, HOLE).replaceAll(/\s+/g, " "));
  return [...new Set(texts)].filter((text) => /[a-z]{3}/i.test(text));
}

function spell(node: ts.Expression): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isParenthesizedExpression(node)) return spell(node.expression);
  if (ts.isConditionalExpression(node)) return [...spell(node.whenTrue), ...spell(node.whenFalse)];
  if (ts.isTemplateExpression(node)) {
    return [node.head.text + node.templateSpans.map((span) => HOLE + span.literal.text).join("")];
  }
  return [HOLE];
}
