import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  functionsOf,
  MutatedTree,
  mutationsOf,
  protocolFiles,
  protocolMutations,
} from "../harness/protocol_mutation.ts";

/** Each rule of the protocol, when inverted, fails a unit test by name. */

const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
const AT_ONCE = 2;

/** Mutations that change no result, each with the reason. */
const EQUIVALENT: Record<string, string> = {
  "readiness.ts memberProblems: member.ahead_ms ?? 0 becomes member.ahead_ms":
    "undefined is greater than no number, as 0 is not greater than a time",
  "readiness.ts memberProblems: member.ahead_ms ?? 0 becomes member.ahead_ms (2)":
    "the condition before it holds only where ahead_ms is set; the default is for the compiler",
  "readiness.ts memberProblems: 0 becomes 1 in member.ahead_ms ?? 0 (2)":
    "the condition before it holds only where ahead_ms is set; the default is for the compiler",
  "write_fence.ts writeFenceDrifted: have ?? null becomes have":
    "JSON.stringify gives undefined for undefined, which differs from every text as null does",
};

const mutations = protocolMutations();
const directory = mkdtempSync(join(tmpdir(), "certautopilot-protocol-"));
const trees: MutatedTree[] = [];
if (LONG) for (let at = 0; at < AT_ONCE; at += 1) trees.push(new MutatedTree(join(directory, String(at))));

afterAll(() => rmSync(directory, { recursive: true, force: true }));

test("every function of the protocol has a mutation", () => {
  const mutated = new Set(mutations.map(({ file, rule }) => `${file} ${rule}`));
  const functions = protocolFiles().flatMap((file) => functionsOf(file).map((name) => `${file} ${name}`));
  expect(functions.length).toBeGreaterThan(30);
  expect(functions.filter((name) => !mutated.has(name))).toEqual([]);
});

test("every equivalent mutation that is listed exists", () => {
  const names = new Set(mutations.map(({ name }) => name));
  expect(Object.keys(EQUIVALENT).filter((name) => !names.has(name))).toEqual([]);
});

test("conditions, comparisons, constants and defaults are changed", () => {
  const source = `function rule(a: 1 | 2, b: boolean): boolean {
  if (b) return a === 2 && !b;
  return [a].filter(some).length < (a ?? 3);
}
function text(): string {
  return "text";
}`;
  expect(mutationsOf("f.ts", source).map(({ name }) => name)).toEqual([
    "f.ts rule: b becomes !(b)",
    "f.ts rule: a === 2 && !b becomes !(a === 2 && !b)",
    "f.ts rule: && becomes || in a === 2 && !b",
    "f.ts rule: !b becomes !(!b)",
    "f.ts rule: === becomes !== in a === 2",
    "f.ts rule: 2 becomes 3 in a === 2",
    "f.ts rule: < becomes >= in [a].filter(some).length < (a ?? 3)",
    "f.ts rule: < becomes <= in [a].filter(some).length < (a ?? 3)",
    "f.ts rule: some becomes (item) => !some(item) in [a].filter(some)",
    "f.ts rule: [a] becomes []",
    "f.ts rule: a ?? 3 becomes a",
    "f.ts rule: a ?? 3 becomes 3",
    "f.ts rule: 3 becomes 2 in a ?? 3",
    'f.ts text: "text" becomes undefined',
  ]);
});

if (LONG) {
  const tried = mutations.filter(({ name }) => EQUIVALENT[name] === undefined);
  const results = new Map(tried.map((mutation) => [mutation, Promise.withResolvers<string | undefined>()]));
  const queue = results.entries();
  const work = async (tree: MutatedTree) => {
    for (const [mutation, { resolve, reject }] of queue) await tree.failingTest(mutation).then(resolve, reject);
  };
  let started = false;

  test("the tests pass without a mutation", async () => {
    expect(await trees[0]?.unchanged()).toEqual({ code: 0, failing: undefined });
  });

  for (const [{ name }, { promise }] of results) {
    test(`a test fails: ${name}`, async () => {
      if (!started) for (const tree of trees) void work(tree);
      started = true;
      const failing = await promise;
      expect(failing).toBeDefined();
      console.log(`${name}\n  fails: ${failing}`);
    }, 180_000);
  }
}
