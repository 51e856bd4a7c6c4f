import { expect, test } from "bun:test";
import type { Member } from "../../src/protocol/member.ts";
import { fleetProblems, memberProblems, type ReadinessQuestion } from "../../src/protocol/readiness.ts";
import { member, TIMES } from "../harness/facts.ts";

/** The limits of each rule about a member, and the words of its hint. */

const QUESTION: ReadinessQuestion = { provider: "env", active: 1, target: 2, declaredMatters: true, times: TIMES };
const codes = (over: Partial<Member>, question: Partial<ReadinessQuestion> = {}) =>
  memberProblems(member(over), { ...QUESTION, ...question }).map(({ code }) => code);

test("a member is silent after its lease, and where its heartbeat lies further ahead than the eviction time", () => {
  expect([codes({ age_ms: 30_000 }), codes({ age_ms: 30_001 })]).toEqual([[], ["silent"]]);
  expect([codes({ ahead_ms: 60_000 }), codes({ ahead_ms: 60_001 })]).toEqual([[], ["silent"]]);
  const { fleet: _, ...announcingNone } = member();
  expect(memberProblems(announcingNone, { ...QUESTION, times: { ...TIMES, evictionMs: 0 } })).toEqual([]);
  // What else it says is not known to be so any more.
  expect(codes({ age_ms: 30_001, acked: null, loaded: [] })).toEqual(["silent"]);
  expect(codes({ ahead_ms: 60_001, acked: null, loaded: [] })).toEqual(["silent"]);
});

test("the message for a heartbeat in the future says how far ahead it is", () => {
  const [problem] = memberProblems(member({ ahead_ms: 90_000 }), QUESTION);
  expect(problem?.message).toMatch(/its last heartbeat lies 90(\.0)? s in the future/);
});

test("a silent member is evicted by a rotation to the version that the operator rotates to", () => {
  const id = member()._id;
  for (const silent of [{ age_ms: 99_000 }, { ahead_ms: 99_000 }]) {
    const hint = (question: Partial<ReadinessQuestion>) =>
      memberProblems(member(silent), { ...QUESTION, ...question })[0]?.hint;
    const command = (to: string) => `evict it: certautopilot kek rotate --to-version=${to} --evict=${id}`;
    expect(hint({})).toEndWith(command("2"));
    expect(hint({ rotatesTo: 7 })).toEndWith(command("7"));
    expect(hint({ target: undefined })).toEndWith(command("N"));
  }
});

test("without a target, a member's own problems with other versions count, unless they are only missing", () => {
  const question = { target: undefined };
  const problem = (version: number, reason: "missing" | "wrong_key" | "unreadable") =>
    codes({ loaded: [1], problems: [{ version, reason }] }, question);
  expect(problem(3, "wrong_key")).toEqual(["wrong_key"]);
  expect(problem(3, "unreadable")).toEqual(["lacks_version"]);
  expect(problem(3, "missing")).toEqual([]);
  expect(problem(1, "wrong_key")).toEqual(["wrong_key"]);
  const { problems: _, ...older } = member({ loaded: [1] });
  expect(memberProblems(older, { ...QUESTION, target: undefined })).toEqual([]);
  // With a target, only the versions of the question count.
  expect(codes({ problems: [{ version: 3, reason: "wrong_key" }] })).toEqual([]);
});

test("a key that cannot be used is told from one that is missing", () => {
  const message = (reason: "missing" | "unreadable") =>
    memberProblems(member({ loaded: [1], problems: [{ version: 2, reason }] }), QUESTION)[0]?.message;
  expect(message("missing")).toEndWith("does not hold KEK version 2");
  expect(message("unreadable")).toEndWith("does not hold KEK version 2: the key it was given cannot be used");
});

test("only the target may be available without being held", () => {
  expect(codes({ loaded: [1], available: [2] })).toEqual([]);
  expect(codes({ loaded: [2], available: [1] })).toEqual(["lacks_version"]);
});

test("a member that declares another version is told which one it declares", () => {
  const message = (current_version: number | null) => memberProblems(member({ current_version }), QUESTION)[0]?.message;
  expect(message(1)).toEndWith("declares current version 1, not 2");
  expect(message(null)).toEndWith("declares no current version, not 2");
  expect(codes({ current_version: 1 }, { declaredMatters: false })).toEqual([]);
  expect(codes({ current_version: 1 }, { target: undefined })).toEqual([]);
});

test("each of the four times is compared with this command's", () => {
  for (const name of ["beatMs", "leaseMs", "evictionMs", "drainMs"] as const) {
    const times = { ...TIMES, [name]: TIMES[name] + 1 };
    expect(fleetProblems([member()], { ...QUESTION, times }).map(({ code }) => code)).toEqual(["fleet_times"]);
  }
});
