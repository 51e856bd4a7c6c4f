import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import ts from "typescript";

/** Changes the rules in src/protocol one at a time, and runs the unit tests against each changed copy. */

export interface Mutation {
  /** File, function and change: unique, and independent of line numbers. */
  name: string;
  file: string;
  /** The function or constant that is changed. */
  rule: string;
  start: number;
  end: number;
  text: string;
}

const ROOT = join(import.meta.dir, "../..");
const PROTOCOL = join(ROOT, "src/protocol");
/** Types and codes only. */
const WITHOUT_RULES = ["documents.ts", "problem.ts"];

/** Unit tests that cover a module whose name they do not have. */
const ALSO_COVERED_BY: Record<string, string[]> = {
  acknowledgement: ["key_policy"],
  key_policy: ["rollback"],
  member: ["fleet_times"],
  preflight: ["readiness"],
  readiness: ["member_problems"],
  rotation_plan: ["key_policy"],
  stale_envelopes: ["repair_hints"],
  version_count: ["stale_envelopes"],
  version_path: ["stale_envelopes"],
  write_fence: ["write_fence_drift"],
};
/** Tried when the tests of a module find nothing. */
const ALL_TESTS = ["key_policy", "readiness", "repair_hints", "write_fence", "health", "status_view", "status_text"];
/** On busy cores. A mutation that hangs is not found by name. */
const LIMIT_MS = 60_000;

export function protocolFiles(): string[] {
  return readdirSync(PROTOCOL)
    .filter((file) => !WITHOUT_RULES.includes(file))
    .sort();
}

/** Every mutation of every rule. */
export function protocolMutations(): Mutation[] {
  return protocolFiles().flatMap((file) => mutationsOf(file, readFileSync(join(PROTOCOL, file), "utf8")));
}

/** Functions of a file, exported and private. */
export function functionsOf(file: string): string[] {
  return parse(file, readFileSync(join(PROTOCOL, file), "utf8"))
    .statements.filter(ts.isFunctionDeclaration)
    .map(({ name }) => name?.text ?? "");
}

/** A copy of the sources and of the unit tests, in which one file at a time is changed. */
export class MutatedTree {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(join(directory, "test/unit"), { recursive: true });
    for (const path of ["src", "test/harness", "package.json", "tsconfig.json", "bunfig.toml"]) {
      cpSync(join(ROOT, path), join(directory, path), { recursive: true });
    }
    const tests = [...ALL_TESTS, ...protocolFiles().flatMap((file) => testsOf(file))];
    for (const path of present(tests)) cpSync(join(ROOT, path), join(directory, path));
    symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
  }

  /** @returns the name of a test that fails with this mutation; undefined when none does. */
  async failingTest(mutation: Mutation): Promise<string | undefined> {
    const path = join(this.#directory, "src/protocol", mutation.file);
    const source = readFileSync(path, "utf8");
    writeFileSync(path, source.slice(0, mutation.start) + mutation.text + source.slice(mutation.end));
    try {
      const own = present(testsOf(mutation.file));
      const others = present(ALL_TESTS).filter((test) => !own.includes(test));
      return (await this.#run(own)).failing ?? (await this.#run(others)).failing;
    } finally {
      writeFileSync(path, source);
    }
  }

  /** Runs the tests without a mutation. */
  async unchanged(): Promise<{ code: number; failing: string | undefined }> {
    return this.#run(readdirSync(join(this.#directory, "test/unit")).map((file) => `test/unit/${file}`));
  }

  async #run(tests: string[]): Promise<{ code: number; failing: string | undefined }> {
    const child = Bun.spawn([process.execPath, "test", "--bail", ...tests], {
      cwd: this.#directory,
      stdout: "ignore",
      stderr: "pipe",
      timeout: LIMIT_MS,
    });
    const [told, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    // A file that does not load, or a runner that died, is no test that fails by name.
    return { code, failing: /^\(fail\) (.*?)(?: \[[\d.]+ms\])?$/m.exec(told)?.[1] };
  }
}

/** Mutations of one source file. */
export function mutationsOf(file: string, source: string): Mutation[] {
  const tree = parse(file, source);
  const found: Found[] = [];
  for (const statement of tree.statements) {
    for (const [rule, node] of rulesIn(statement)) {
      const before = found.length;
      const change: Change = (at, text) => found.push({ rule, at, text });
      visit(node, tree, change);
      // A rule without any condition returns nothing instead.
      if (found.length === before && ts.isFunctionDeclaration(node)) emptyReturns(node, change);
    }
  }
  return named(file, found, source);
}

// ---------------------------------------------------------------------------------------------------------------------

type Change = (at: ts.Node, text: string) => void;
interface Found {
  rule: string;
  at: ts.Node;
  text: string;
}

const OPERATORS = new Map<ts.SyntaxKind, string[]>([
  [ts.SyntaxKind.AmpersandAmpersandToken, ["||"]],
  [ts.SyntaxKind.BarBarToken, ["&&"]],
  [ts.SyntaxKind.EqualsEqualsEqualsToken, ["!=="]],
  [ts.SyntaxKind.ExclamationEqualsEqualsToken, ["==="]],
  [ts.SyntaxKind.LessThanToken, [">=", "<="]],
  [ts.SyntaxKind.LessThanEqualsToken, [">", "<"]],
  [ts.SyntaxKind.GreaterThanToken, ["<=", ">="]],
  [ts.SyntaxKind.GreaterThanEqualsToken, ["<", ">"]],
  [ts.SyntaxKind.PlusToken, ["-"]],
  [ts.SyntaxKind.MinusToken, ["+"]],
  [ts.SyntaxKind.AsteriskToken, ["/"]],
  [ts.SyntaxKind.SlashToken, ["*"]],
]);
const COMPARISONS = [
  ts.SyntaxKind.EqualsEqualsEqualsToken,
  ts.SyntaxKind.ExclamationEqualsEqualsToken,
  ts.SyntaxKind.LessThanToken,
  ts.SyntaxKind.LessThanEqualsToken,
  ts.SyntaxKind.GreaterThanToken,
  ts.SyntaxKind.GreaterThanEqualsToken,
];
const LOGICAL = [ts.SyntaxKind.AmpersandAmpersandToken, ts.SyntaxKind.BarBarToken];
const PREDICATES = ["filter", "some", "every", "find"];
const OPPOSITES: Record<string, string> = { from: "to", to: "from" };

const moduleOf = (file: string) => basename(file, ".ts");
const testsOf = (file: string) => [moduleOf(file), ...(ALSO_COVERED_BY[moduleOf(file)] ?? [])];
/** The files of those tests that there are. */
const present = (tests: string[]) =>
  [...new Set(tests)].map((test) => `test/unit/${test}.test.ts`).filter((path) => existsSync(join(ROOT, path)));
const parse = (file: string, source: string) => ts.createSourceFile(file, source, ts.ScriptTarget.ESNext, true);

function rulesIn(statement: ts.Statement): [string, ts.Node][] {
  if (ts.isFunctionDeclaration(statement)) return [[statement.name?.text ?? "", statement]];
  if (!ts.isVariableStatement(statement)) return [];
  return statement.declarationList.declarations.map((declared) => [declared.name.getText(), declared]);
}

function visit(node: ts.Node, tree: ts.SourceFile, change: Change): void {
  if (ts.isTypeNode(node)) return;
  const negate = (condition: ts.Expression) => {
    // The comparison itself is inverted below.
    if (!isComparison(condition)) change(condition, `!(${condition.getText(tree)})`);
  };
  if (ts.isIfStatement(node)) negate(node.expression);
  if (ts.isConditionalExpression(node)) negate(node.condition);
  if (ts.isReturnStatement(node) && node.expression !== undefined && returnsBoolean(node)) negate(node.expression);
  if (ts.isCallExpression(node)) changeCall(node, negate, change);
  if (ts.isBinaryExpression(node)) changeBinary(node, tree, negate, change);
  if (ts.isNumericLiteral(node)) change(node, otherNumber(Number(node.text)));
  if (ts.isArrayLiteralExpression(node)) changeArray(node, tree, change);
  if (ts.isCaseClause(node) && ts.isStringLiteral(node.expression))
    change(node.expression, `"not ${node.expression.text}"`);
  if (ts.isPropertyAssignment(node) && ts.isIdentifier(node.initializer)) {
    const opposite = OPPOSITES[node.initializer.text];
    if (opposite !== undefined) change(node.initializer, opposite);
  }
  ts.forEachChild(node, (child) => visit(child, tree, change));
}

function changeCall(node: ts.CallExpression, negate: (condition: ts.Expression) => void, change: Change): void {
  if (!ts.isPropertyAccessExpression(node.expression)) return;
  const { text } = node.expression.name;
  const [callback] = node.arguments;
  if (PREDICATES.includes(text) && callback !== undefined) {
    if (ts.isIdentifier(callback)) change(callback, `(item) => !${callback.text}(item)`);
    if (ts.isArrowFunction(callback) && !ts.isBlock(callback.body)) negate(callback.body);
  }
  if (text === "max" || text === "min") change(node.expression.name, text === "max" ? "min" : "max");
}

function changeBinary(
  node: ts.BinaryExpression,
  tree: ts.SourceFile,
  negate: (condition: ts.Expression) => void,
  change: Change,
): void {
  const { left, operatorToken, right } = node;
  for (const operator of OPERATORS.get(operatorToken.kind) ?? []) change(operatorToken, operator);
  if (operatorToken.kind === ts.SyntaxKind.QuestionQuestionToken) {
    change(node, left.getText(tree));
    change(node, right.getText(tree));
  }
  if (LOGICAL.includes(operatorToken.kind)) {
    for (const operand of [left, right]) if (!isLogical(operand)) negate(operand);
  }
}

function changeArray(node: ts.ArrayLiteralExpression, tree: ts.SourceFile, change: Change): void {
  for (const left of node.elements) {
    const kept = node.elements.filter((element) => element !== left);
    change(node, `[${kept.map((element) => element.getText(tree)).join(", ")}]`);
  }
}

function emptyReturns(rule: ts.Node, change: Change): void {
  const visitReturns = (node: ts.Node): void => {
    if (ts.isReturnStatement(node) && node.expression !== undefined) change(node.expression, "undefined");
    ts.forEachChild(node, visitReturns);
  };
  visitReturns(rule);
}

function returnsBoolean(node: ts.Node): boolean {
  const around = ts.findAncestor(node, ts.isFunctionLike);
  return around?.type?.kind === ts.SyntaxKind.BooleanKeyword;
}

function bare(node: ts.Expression): ts.Expression {
  return ts.isParenthesizedExpression(node) ? bare(node.expression) : node;
}

function isComparison(node: ts.Expression): boolean {
  const inner = bare(node);
  return ts.isBinaryExpression(inner) && COMPARISONS.includes(inner.operatorToken.kind);
}

function isLogical(node: ts.Expression): boolean {
  const inner = bare(node);
  return ts.isBinaryExpression(inner) && LOGICAL.includes(inner.operatorToken.kind);
}

/** Another phase for a phase, another number for the rest. */
function otherNumber(value: number): string {
  return String(value === 3 ? 2 : value + 1);
}

function named(file: string, found: Found[], source: string): Mutation[] {
  const seen = new Map<string, number>();
  return found.map(({ rule, at, text }) => {
    const [start, end] = [at.getStart(), at.getEnd()];
    const change = [source.slice(start, end), text].map(oneLine).join(" becomes ");
    // An operator or a constant says little without the expression that it is in.
    const alone = !ts.isToken(at) || ts.isStatement(at.parent);
    const within = alone ? "" : ` in ${oneLine(at.parent.getText())}`;
    const name = `${file} ${rule}: ${change}${within}`;
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return { name: count === 1 ? name : `${name} (${count})`, file, rule, start, end, text };
  });
}

function oneLine(code: string): string {
  const line = code.replace(/\s+/g, " ");
  return line.length > 100 ? `${line.slice(0, 99)}…` : line;
}
