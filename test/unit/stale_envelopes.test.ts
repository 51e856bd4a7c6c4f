import { expect, test } from "bun:test";
import type { RotationDoc } from "../../src/protocol/documents.ts";
import { repairableVersions, repairOf, staleEnvelopeProblems } from "../../src/protocol/stale_envelopes.ts";
import { isVersion } from "../../src/protocol/version_count.ts";
import { versionKey } from "../../src/protocol/version_path.ts";
import { rotation, version } from "../harness/facts.ts";

/** Envelopes at a version that nothing should be at. */

const VERSIONS = [version(1, "retired"), version(2, "active"), version(3, "staged"), version(4, "destroyed")];
const row = (at: string, count = 2) => ({ field: "users:pin", version: at, count });
const problems = (from: number, to: number, ...rows: ReturnType<typeof row>[]) =>
  staleEnvelopeProblems({ versionCounts: rows, versions: VERSIONS, from, to });

test("a version is a positive whole number without leading zeros", () => {
  const texts = ["1", "12", "0", "01", "-1", "1.5", "none", '"1"', ""];
  expect(texts.filter((text) => isVersion(row(text)))).toEqual(["1", "12"]);
  expect(versionKey("a.b")).toBe("a.b.kek_version");
});

test("envelopes at the two versions of a rotation are not stale", () => {
  expect(problems(1, 2, row("1"), row("2"))).toEqual([]);
  expect(problems(2, 2, row("2"))).toEqual([]);
  expect(problems(2, 3, row("2"), row("1"), row("3")).map(({ code }) => code)).toEqual(["stale_envelope"]);
});

test("a message has the number of envelopes, their field and version, and what was expected", () => {
  const message = (from: number, to: number, at: string, count: number) =>
    problems(from, to, row(at, count)).map((problem) => problem.message);
  expect(message(2, 2, "1", 1)).toEqual(["1 envelope of users:pin is at version 1, which is not 2"]);
  expect(message(2, 3, "1", 5)).toEqual(["5 envelopes of users:pin are at version 1, which is neither 2 nor 3"]);
  const none = "no kek_version: plaintext, or a damaged envelope";
  expect(message(2, 2, "none", 1)).toEqual([`1 value of users:pin has ${none}`]);
  expect(message(2, 2, "none", 3)).toEqual([`3 values of users:pin have ${none}`]);
});

test("a hint is for the state of the version that the envelopes are at", () => {
  const hint = (at: string, from = 2, to = 2) => problems(from, to, row(at))[0]?.hint;
  expect(hint("1")).toBe("move them to version 2: certautopilot kek rotate --to-version=2");
  expect(hint("3")).toBe(
    "their version was never active: rotate to it, and the rest follows: certautopilot kek rotate --to-version=3",
  );
  expect(hint("2", 1, 3)).toBe("they are at the active version: certautopilot kek status");
  const lost = (at: string) =>
    `no key of version ${at} is left, or it never was one of this install: restore these fields from a backup`;
  expect([hint("4"), hint("9")]).toEqual([lost("4"), lost("9")]);
  expect(hint("none")).toBe(repairOf(row("none")));
  expect(hint("weird")).toBe(repairOf(row("weird")));
  const [problem] = staleEnvelopeProblems({ versionCounts: [row("1")], versions: VERSIONS, from: 2, to: 3, home: 2 });
  expect(problem?.hint).toBe("move them to version 2: certautopilot kek rotate --to-version=2");
});

test("envelopes of a retired version can be moved, unless an open rotation has that version", () => {
  const rows = ["1", "2", "3", "4", "none"].map((at) => row(at));
  const stale = (doc?: RotationDoc) => repairableVersions(rows, { versions: VERSIONS, rotation: doc });
  const first = [{ field: "users:pin", version: 1, count: 2 }];
  expect(stale()).toEqual(first);
  expect(stale(rotation(3, { from: 1, to: 2, state: "completed" }))).toEqual(first);
  expect(stale(rotation(2, { from: 2, to: 3 }))).toEqual(first);
  expect(stale(rotation(2, { from: 2, to: 1 }))).toEqual([]);
  expect(stale(rotation(2, { from: 1, to: 2, repairs: true }))).toEqual([]);
});
