import { expect, test } from "bun:test";
import type { Phase } from "../../src/protocol/documents.ts";
import { nextSteps, nextStepsText, resumeCommand, reverseCommand } from "../../src/protocol/next_steps.ts";

/** The commands that an open rotation 1 → 2 allows. */

const RESUME = "certautopilot kek rotate --to-version=2";
const REVERSE = "certautopilot kek rotate --to-version=1 --from-version=2";
const CANCEL = "certautopilot kek rotate --cancel";

const rotation = (phase: Phase, repairs?: true) => ({
  from: 1,
  to: 2,
  phase,
  state: "running" as const,
  ...(repairs && { repairs }),
});
const steps = (phase: Phase, led: boolean, repairs?: true) =>
  nextSteps(rotation(phase, repairs), led).map(({ does, command }) => `${does}: ${command}`);

test("a command names the version that it rotates to, and back from", () => {
  expect(resumeCommand({ to: 2 })).toBe(RESUME);
  expect(reverseCommand({ from: 1, to: 2 })).toBe(REVERSE);
});

test("while a coordinator leads it can only be stopped, and not in phase 3", () => {
  expect([steps(1, true), steps(2, true), steps(3, true)]).toEqual([[`stop: ${CANCEL}`], [`stop: ${CANCEL}`], []]);
});

test("while nobody leads, each phase allows its own commands", () => {
  expect(steps(1, false)).toEqual([`go on: ${RESUME}`, `stop: ${CANCEL}`]);
  expect(steps(2, false)).toEqual([`go on: ${RESUME}`, `back: ${REVERSE}`]);
  expect(steps(3, false)).toEqual([`let it complete: ${RESUME}`, `then go back: ${REVERSE}`]);
});

test("a repair has no reverse rotation: it is stopped instead", () => {
  expect(steps(2, false, true)).toEqual([`go on: ${RESUME}`, `stop: ${CANCEL}`]);
  expect(steps(3, false, true)).toEqual([`let it complete: ${RESUME}`, `then go back: ${REVERSE}`]);
});

test("as one line, alternatives are told from steps that follow each other", () => {
  expect(nextStepsText(rotation(1))).toBe(`go on: ${RESUME}  or stop: ${CANCEL}`);
  expect(nextStepsText(rotation(2))).toBe(`go on: ${RESUME}  or back: ${REVERSE}`);
  expect(nextStepsText(rotation(3))).toBe(`let it complete: ${RESUME}  and only then go back: ${REVERSE}`);
});
