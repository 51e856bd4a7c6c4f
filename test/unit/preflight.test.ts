import { expect, test } from "bun:test";
import { type PreflightFacts, preflight } from "../../src/protocol/preflight.ts";
import type { Problem } from "../../src/protocol/problem.ts";
import { member, rotation, TIMES, version } from "../harness/facts.ts";

/** Which rules of the preflight apply to which plan. */

const LIMIT = 2 ** 32;
const PLANS: Record<string, PreflightFacts["plan"]> = {
  start: { kind: "start", from: 1, to: 2, isReverse: false },
  repair: { kind: "repair", from: 1, to: 2 },
  resume: { kind: "resume", from: 1, to: 2, rotation: rotation(2) },
  reverse: { kind: "reverse", from: 1, to: 2, replaces: rotation(2) },
};

function problems(over: Partial<PreflightFacts>): Problem[] {
  return preflight({
    plan: { kind: "start", from: 1, to: 2, isReverse: false },
    provider: "env",
    versions: [version(1, "active"), version(2, "staged")],
    roster: [member()],
    versionCounts: [{ field: "a:b", version: "1", count: 5 }],
    fieldProblems: [],
    ownKeys: new Map(),
    declared: 2,
    explicitFrom: false,
    times: TIMES,
    backup: "skipped",
    copyable: true,
    howToBackUp: "copy the secrets",
    ...over,
  });
}

/** The plans for which something is a problem. */
const refused = (over: Partial<PreflightFacts>) =>
  Object.keys(PLANS).filter((name) => problems({ plan: PLANS[name]!, ...over }).length > 0);

test("the fleet and the fields must be ready for what begins, not for what is open", () => {
  const field: Problem = { code: "field", message: "a field", hint: "put it right" };
  expect(refused({})).toEqual([]);
  expect(refused({ fieldProblems: [field] })).toEqual(["start", "repair"]);
  expect(refused({ roster: [member({ age_ms: 99_000 })] })).toEqual(["start", "repair"]);
  expect(refused({ roster: [member({ loaded: [2], available: [] })] })).toEqual(["start", "repair"]);
  expect(refused({ roster: [member({ current_version: 5 })] })).toEqual(["start"]);
});

test("a silent member is evicted by a rotation to the target of the plan", () => {
  const roster = [member({ age_ms: 99_000 })];
  for (const plan of [PLANS["start"]!, PLANS["repair"]!]) {
    expect(problems({ plan, roster })[0]?.hint).toContain("kek rotate --to-version=2 --evict=");
  }
});

test("this shell must declare the version that is left or the target", () => {
  const codes = (declared: number | undefined, explicitFrom = false) =>
    problems({ declared, explicitFrom }).map(({ code }) => code);
  expect([codes(undefined), codes(1), codes(2), codes(3, true)]).toEqual([[], [], [], []]);
  expect(codes(3)).toEqual(["shell_declares"]);
});

test("where the target has too little room for wraps, an open rotation is reversed first", () => {
  const versions = [version(1, "active"), version(2, "staged", { wraps: LIMIT - 4 })];
  const hint = (name: string) => problems({ plan: PLANS[name]!, versions })[0]?.hint;
  const rest = "rotate to a version that has room: certautopilot kek status tells the wraps of each";
  expect(hint("start")).toBe(rest);
  expect(hint("resume")).toBe(`go back: certautopilot kek rotate --to-version=1 --from-version=2  then ${rest}`);
});

test("envelopes at a third version are moved to the version that is left", () => {
  const versions = [version(1, "active"), version(2, "staged"), version(3, "retired")];
  const found = problems({ versions, versionCounts: [{ field: "a:b", version: "3", count: 1 }] });
  expect(found.map(({ code, hint }) => [code, hint])).toEqual([
    ["stale_envelope", "move them to version 1: certautopilot kek rotate --to-version=1"],
  ]);
});
