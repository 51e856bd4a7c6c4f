import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { awaited } from "../../src/protocol/acknowledgement.ts";
import type { Phase, RotationDoc, RotationState, VersionDoc, VersionState } from "../../src/protocol/documents.ts";
import { type KeyPolicy, keyPolicyOf, versionsToHold } from "../../src/protocol/key_policy.ts";
import { isOpen } from "../../src/protocol/phases.ts";
import { planRotation } from "../../src/protocol/rotation_plan.ts";
import { member } from "../harness/facts.ts";

const KEYS = { howToGive: (number: number, _known: boolean) => `give it ${number}` };

const version = (_id: number, state: VersionState) => ({ _id, state }) as VersionDoc;
const rotation = (from: number, to: number, phase: Phase, state: RotationState, epoch = 7) =>
  ({ _id: 1, from, to, phase, state, epoch, open: true }) as RotationDoc;
const VERSIONS = [version(1, "active"), version(2, "staged")];

describe("what a process holds and writes", () => {
  test("follows the table of phases", () => {
    const table: [RotationDoc | undefined, Partial<KeyPolicy>][] = [
      [undefined, { phase: 0, readable: [1], write: 1 }],
      [rotation(1, 2, 1, "running"), { phase: 1, readable: [1, 2], write: 1 }],
      [rotation(1, 2, 2, "running"), { phase: 2, readable: [1, 2], write: 2 }],
      [rotation(1, 2, 3, "running"), { phase: 3, readable: [2], write: 2, leaving: 1 }],
      [rotation(1, 2, 1, "cancelled"), { phase: 0, readable: [1], write: 1 }],
      [rotation(1, 2, 2, "cancelled"), { phase: 2, readable: [1, 2], write: 2 }],
    ];
    for (const [doc, expected] of table) expect(keyPolicyOf(VERSIONS, doc)).toMatchObject(expected);
  });

  test("is unknown before the first version is active", () => {
    expect(keyPolicyOf([version(1, "staged")], undefined)).toBeUndefined();
  });

  test("keeps staged versions ready, but never the one being left", () => {
    const held = (doc: RotationDoc | undefined, versions = VERSIONS) =>
      versionsToHold(keyPolicyOf(versions, doc) as KeyPolicy, versions);
    expect(held(undefined)).toEqual([1, 2]);
    expect(held(rotation(1, 2, 3, "running"))).toEqual([2]);
    // The reverse rotation from an unfinished rotation leaves a version that is still called staged.
    expect(held(rotation(2, 1, 3, "running"))).toEqual([1]);
    expect(held(undefined, [version(1, "retired"), version(2, "active"), version(3, "staged")])).toEqual([2, 3]);
  });

  /** docs/protocol.md: adjacent phases are safe together. */
  test("in adjacent phases every process can open what any other writes", () => {
    const steps = (from: number, to: number, versions: VersionDoc[]) => [
      keyPolicyOf(versions, undefined) as KeyPolicy,
      ...([1, 2, 3] as Phase[]).map(
        (phase) => keyPolicyOf(versions, rotation(from, to, phase, "running")) as KeyPolicy,
      ),
      keyPolicyOf([version(from, "retired"), version(to, "active")], rotation(from, to, 3, "completed")) as KeyPolicy,
    ];
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 51, max: 99 }),
        fc.boolean(),
        (low, high, forward) => {
          const [from, to] = forward ? [low, high] : [high, low];
          const all = steps(from, to, [version(from, "active"), version(to, forward ? "staged" : "retired")]);
          for (let at = 0; at + 1 < all.length; at += 1) {
            const [a, b] = [all[at] as KeyPolicy, all[at + 1] as KeyPolicy];
            expect(a.readable).toContain(a.write);
            expect(b.readable).toContain(a.write === from && b.leaving === from ? to : a.write);
            expect(a.readable).toContain(b.write);
          }
          // Two apart they are not: that is why every phase waits for every process.
          expect((all[0] as KeyPolicy).readable).not.toContain((all[2] as KeyPolicy).write);
          expect((all[3] as KeyPolicy).readable).not.toContain((all[1] as KeyPolicy).write);
        },
      ),
    );
  });
});

describe("what `rotate --to-version` means", () => {
  const plan = (doc: RotationDoc | undefined, to: number, from?: number, versions = VERSIONS) =>
    planRotation({ versions, rotation: doc, wanted: { to, from }, keys: KEYS });

  test("starts from the active version", () => {
    expect(plan(undefined, 2)).toEqual({ kind: "start", from: 1, to: 2, isReverse: false });
    expect(plan(undefined, 2, 1)).toMatchObject({ kind: "start" });
    const after = [version(1, "retired"), version(2, "active")];
    expect(plan(rotation(1, 2, 3, "completed"), 1, 2, after)).toEqual({
      kind: "start",
      from: 2,
      to: 1,
      isReverse: true,
    });
  });

  test("resumes an open rotation to the same version", () => {
    for (const doc of [rotation(1, 2, 1, "running"), rotation(1, 2, 2, "cancelled"), rotation(1, 2, 3, "running")]) {
      expect(plan(doc, 2)).toMatchObject({ kind: "resume", from: 1, to: 2 });
      expect(plan(doc, 2, 1)).toMatchObject({ kind: "resume" });
    }
  });

  test("repairs stale envelopes of a version that was left, when the active one is asked for", () => {
    const versions = [version(1, "retired"), version(2, "active"), version(3, "staged"), version(4, "retired")];
    const at = (...rows: number[]) => rows.map((row) => ({ field: "a:b", version: String(row), count: 2 }));
    const repair = (version_counts: ReturnType<typeof at>, from?: number) =>
      planRotation({
        versions,
        rotation: rotation(1, 2, 3, "completed"),
        wanted: { to: 2, from },
        keys: KEYS,
        versionCounts: version_counts,
      });
    expect(repair(at(2, 1))).toEqual({ kind: "repair", from: 1, to: 2 });
    expect(repair(at(1, 4), 4)).toEqual({ kind: "repair", from: 4, to: 2 });
    // Nothing is stale envelope, nobody holds its key, or it was never left.
    for (const version_counts of [at(2), at(9), at(3)])
      expect(repair(version_counts)).toMatchObject({ kind: "refuse" });
    // It begins next to the steady state: whoever is late reads what others write, and the other way round.
    const open = { ...rotation(1, 2, 2, "running"), repairs: true as const };
    expect(keyPolicyOf(versions, open)).toMatchObject({ readable: [1, 2], write: 2 });
    expect(plan(open, 2, undefined, versions)).toMatchObject({ kind: "resume" });
    expect(plan(open, 1, 2, versions)).toMatchObject({ kind: "refuse" });
  });

  test("reverses an unfinished rotation only when told where from", () => {
    expect(plan(rotation(1, 2, 2, "cancelled"), 1, 2)).toMatchObject({ kind: "reverse", from: 2, to: 1 });
    expect(plan(rotation(1, 2, 2, "running"), 1, 2)).toMatchObject({ kind: "reverse" });
    expect(plan(rotation(1, 2, 2, "cancelled"), 1)).toMatchObject({ kind: "refuse" });
  });

  test("refuses the rest, with the next step", () => {
    const versions = [...VERSIONS, version(3, "destroyed"), version(4, "staged")];
    const refused: [RotationDoc | undefined, number, number | undefined, string][] = [
      [undefined, 1, undefined, "already the active one"],
      [undefined, 9, undefined, "not known"],
      [undefined, 3, undefined, "was destroyed"],
      [undefined, 2, 4, "not the active version"],
      [rotation(1, 2, 2, "running"), 4, undefined, "is open"],
      [rotation(1, 2, 2, "running"), 2, 4, "is open"],
      [rotation(1, 2, 1, "running"), 1, 2, "phase 1"],
      [rotation(1, 2, 3, "running"), 1, 2, "phase 3"],
    ];
    for (const [doc, to, from, words] of refused) {
      const result = plan(doc, to, from, versions);
      expect(result).toMatchObject({ kind: "refuse", problem: { message: expect.stringContaining(words) } });
      expect((result as { problem: { hint: string } }).problem.hint.length).toBeGreaterThan(10);
    }
    expect(plan(undefined, 2, undefined, [version(2, "staged")])).toMatchObject({ kind: "refuse" });
  });

  test("a cancelled first phase is closed, a cancelled second one is open", () => {
    expect(isOpen({ state: "cancelled", phase: 1 })).toBe(false);
    expect(isOpen({ state: "cancelled", phase: 2 })).toBe(true);
    expect(isOpen({ state: "completed", phase: 3 })).toBe(false);
    expect(isOpen({ state: "reverted", phase: 2 })).toBe(false);
  });
});

test("an acknowledgement counts for its own rotation, epoch and phase only", () => {
  const acked = (rotationId: number | null, epoch: number, phase: 0 | Phase) =>
    member({ acked: { rotation: rotationId, epoch, phase } });
  const waiting = (...roster: ReturnType<typeof member>[]) => awaited(roster, 4, 11, 2).length;
  expect(waiting(acked(4, 11, 2))).toBe(0);
  expect(waiting(acked(4, 10, 2), acked(3, 11, 2), acked(4, 11, 1), acked(null, 11, 2), member({ acked: null }))).toBe(
    5,
  );
});
