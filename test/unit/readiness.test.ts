import { describe, expect, test } from "bun:test";
import { KekError } from "../../src/errors/errors.ts";
import type { VersionDoc } from "../../src/protocol/documents.ts";
import { type PreflightFacts, preflight } from "../../src/protocol/preflight.ts";
import { fleetProblems, type ReadinessQuestion } from "../../src/protocol/readiness.ts";
import { member } from "../harness/facts.ts";

const TIMES = { beatMs: 5000, leaseMs: 30_000, evictionMs: 60_000, drainMs: 5000 };
const QUESTION: ReadinessQuestion = { provider: "env", active: 1, target: 2, declaredMatters: true, times: TIMES };
const codes = (...roster: ReturnType<typeof member>[]) =>
  fleetProblems(roster, QUESTION).map((problem) => problem.code);

describe("readiness", () => {
  test("a fleet that holds and declares the target is ready", () => {
    expect(codes(member(), member({ _id: "b", role: "worker" }))).toEqual([]);
    expect(fleetProblems([], QUESTION)).toEqual([]);
  });

  test("each way not to be ready is named with its process and a next step", () => {
    const cases: [Parameters<typeof member>[0], string][] = [
      [{ provider: "pkcs11" }, "provider"],
      [{ age_ms: 30_001 }, "silent"],
      [{ acked: null }, "joining"],
      [{ loaded: [1] }, "lacks_version"],
      [{ loaded: [2] }, "lacks_version"],
      [{ loaded: [1], problems: [{ version: 2, reason: "wrong_key" }] }, "wrong_key"],
      [{ current_version: 1 }, "declares_other"],
      [{ current_version: null }, "declares_other"],
    ];
    for (const [facts, code] of cases) {
      const problems = fleetProblems([member({ instance_name: "the-one", ...facts })], QUESTION);
      expect(problems.map((problem) => problem.code)).toEqual([code as never]);
      expect(problems[0]?.message).toContain("the-one");
      expect(problems[0]?.hint.length).toBeGreaterThan(10);
    }
  });

  test("whoever lacks a key is told to copy it, never to generate it", () => {
    const [problem] = fleetProblems([member({ loaded: [1] })], QUESTION);
    expect(problem?.hint).toMatch(/never one that is generated again .*KEK_V2 from a host that has it/);
  });

  test("silence is measured by the process's own lease", () => {
    const fleet = { beat_ms: 100, lease_ms: 1000, eviction_ms: 2000, drain_ms: 0 };
    const times = { beatMs: 100, leaseMs: 1000, evictionMs: 2000, drainMs: 0 };
    const silent = (age_ms: number) =>
      fleetProblems([member({ fleet, age_ms })], { ...QUESTION, times }).map((problem) => problem.code);
    expect(silent(999)).toEqual([]);
    expect(silent(1001)).toEqual(["silent"]);
  });

  test("a retired target counts when it could be loaded again", () => {
    const back = { ...QUESTION, active: 2, target: 1, declaredMatters: false };
    expect(fleetProblems([member({ loaded: [2], available: [1] })], back)).toEqual([]);
    expect(fleetProblems([member({ loaded: [2], available: [] })], back)).toHaveLength(1);
  });

  test("other fleet times are a problem, this command's too", () => {
    const other = { beat_ms: 5000, lease_ms: 31_000, eviction_ms: 60_000, drain_ms: 5000 };
    expect(codes(member(), member({ _id: "b", fleet: other }))).toEqual(["fleet_times"]);
    expect(
      fleetProblems([member()], { ...QUESTION, times: { ...TIMES, evictionMs: 30_000 } }).map((p) => p.code),
    ).toEqual(["fleet_times"]);
  });
});

describe("preflight", () => {
  const facts = (over: Partial<PreflightFacts> = {}): PreflightFacts => ({
    plan: { kind: "start", from: 1, to: 2, isReverse: false },
    provider: "env",
    versions: [
      { _id: 1, state: "active", wraps: 1000 } as VersionDoc,
      { _id: 2, state: "staged", wraps: 1000 } as VersionDoc,
    ],
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
  const found = (over: Partial<PreflightFacts>) => preflight(facts(over)).map((problem) => problem.code);

  test("passes when everything is in order", () => {
    expect(found({})).toEqual([]);
  });

  test("names envelopes at a third version, a key this command lacks, a missing backup, another shell", () => {
    expect(found({ versionCounts: [{ field: "a:b", version: "7", count: 1 }] })).toEqual(["stale_envelope"]);
    expect(found({ versionCounts: [{ field: "a:b", version: "weird", count: 1 }] })).toEqual(["stale_envelope"]);
    expect(found({ ownKeys: new Map([[2, new KekError("key_missing", "no key", "give it")]]) })).toEqual(["own_key"]);
    expect(found({ declared: 5 })).toEqual(["shell_declares"]);
    expect(found({ declared: 5, explicitFrom: true })).toEqual([]);
  });

  test("asks for a verified backup where it was required, or by default where a rotation to a new key in a file starts", () => {
    const rotation = {} as never;
    const plans: Record<string, PreflightFacts["plan"]> = {
      start: { kind: "start", from: 1, to: 2, isReverse: false },
      "start to a retired version": { kind: "start", from: 1, to: 2, isReverse: true },
      reverse: { kind: "reverse", from: 1, to: 2, replaces: rotation },
      resume: { kind: "resume", from: 1, to: 2, rotation },
      repair: { kind: "repair", from: 1, to: 2 },
    };
    const asked: string[] = [];
    for (const [name, plan] of Object.entries(plans))
      for (const provider of ["env", "pkcs11"] as const)
        for (const backup of ["required", "default", "skipped"] as const) {
          const roster = [member({ provider, loaded: [1, 2] })];
          const over = { plan, provider, copyable: provider === "env", backup, roster, explicitFrom: true };
          if (found(over).length > 0) {
            expect(found(over)).toEqual(["backup"]);
            asked.push(`${name}, ${provider}, ${backup}`);
          }
          const verified = [{ _id: 2, state: "staged", wraps: 0, backup_verified_at: new Date() } as VersionDoc];
          expect(found({ ...over, versions: verified })).toEqual([]);
        }
    const always = Object.keys(plans).flatMap((name) => [`${name}, env, required`, `${name}, pkcs11, required`]);
    expect(asked.sort()).toEqual([...always, "start, env, default"].sort());
    const hint = (backup: PreflightFacts["backup"]) => preflight(facts({ backup }))[0]?.hint;
    expect(hint("required")).toBe("copy the secrets");
    expect(hint("default")).toContain("--no-backup-check");
  });

  test("asks for room for a wrap a record under the target, for whatever kind of rotation", () => {
    const target = (wraps: number) => [{ _id: 2, state: "staged", wraps } as VersionDoc];
    const LIMIT = 4_294_967_296;
    expect(found({ versions: target(LIMIT - 5) })).toEqual([]);
    expect(found({ versions: target(LIMIT - 4) })).toEqual(["wraps"]);
    expect(found({ versions: target(LIMIT + 1) })).toEqual(["wraps"]);
    const plan = { kind: "resume", from: 1, to: 2, rotation: {} as never } as const;
    expect(found({ plan, versions: target(LIMIT - 4) })).toEqual(["wraps"]);
    // With nothing left to move, a version without room is no hindrance to settling.
    expect(found({ plan, versions: target(LIMIT), versionCounts: [{ field: "a:b", version: "2", count: 5 }] })).toEqual(
      [],
    );
  });

  test("a reverse rotation that is asked for does not ask what processes declare", () => {
    const plan = { kind: "start", from: 1, to: 2, isReverse: true } as const;
    const roster = [member({ current_version: 1 })];
    expect(found({ plan, roster, explicitFrom: true })).toEqual([]);
    expect(found({ plan, roster })).toEqual(["target"]);
  });

  test("an open rotation continues although a process has died, but not without this command's keys", () => {
    const plan = { kind: "resume", from: 1, to: 2, rotation: {} as never } as const;
    expect(found({ plan, roster: [member({ age_ms: 99_999_999 })] })).toEqual([]);
    expect(found({ plan, ownKeys: new Map([[1, new KekError("key_missing", "no key", "give it")]]) })).toEqual([
      "own_key",
    ]);
  });
});
