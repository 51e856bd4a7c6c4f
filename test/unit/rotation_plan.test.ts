import { expect, test } from "bun:test";
import { nextStepsText } from "../../src/protocol/next_steps.ts";
import { planRotation, type RotationRequestVersions } from "../../src/protocol/rotation_plan.ts";
import { rotation, version } from "../harness/facts.ts";

/** What a request means while a rotation is open, and what a refusal says to do. */

const KEYS = { howToGive: (number: number, known: boolean) => `give version ${number}, ${known ? "known" : "new"}` };
const STEADY = [version(1, "retired"), version(2, "active"), version(3, "destroyed")];
const COMPLETED = rotation(3, { state: "completed" });

function plan(
  doc: Parameters<typeof planRotation>[0]["rotation"],
  wanted: Partial<RotationRequestVersions>,
  versions = STEADY,
) {
  return planRotation({ versions, rotation: doc, wanted: { to: 2, from: undefined, ...wanted }, keys: KEYS });
}

function refusal(...request: Parameters<typeof plan>): [string, string] {
  const refused = plan(...request);
  if (refused.kind !== "refuse") throw new Error(`it was planned: ${refused.kind}`);
  return [refused.problem.message, refused.problem.hint];
}

test("a rotation to the active version is refused, and --remove-old after one that led there has its command", () => {
  const remove = "the rotation is complete; for what --remove-old asks, run: certautopilot kek remove --version=1";
  const nothing = "nothing is left to do; `certautopilot kek status` shows it";
  const message = "KEK version 2 is already the active one";
  expect(refusal(COMPLETED, { removeOld: true })).toEqual([message, remove]);
  expect(refusal(COMPLETED, {})).toEqual([message, nothing]);
  expect(refusal(COMPLETED, { removeOld: false })).toEqual([message, nothing]);
  expect(refusal(undefined, { removeOld: true })).toEqual([message, nothing]);
  expect(refusal(rotation(1, { from: 2, to: 4, state: "cancelled" }), { removeOld: true })).toEqual([message, nothing]);
});

test("a version that cannot be rotated to is refused with its reason", () => {
  expect(refusal(undefined, {}, [version(1, "staged")])[0]).toBe("no KEK version is active yet");
  expect(refusal(undefined, { to: 1, from: 3 })).toEqual([
    "--from-version=3 is not the active version: that is 2",
    "run: certautopilot kek rotate --to-version=1 --from-version=2",
  ]);
  expect(refusal(undefined, { to: 9 })).toEqual([
    "KEK version 9 is not known: no process of the fleet holds it",
    "give version 9, new; then run: certautopilot kek verify --target=9",
  ]);
  expect(refusal(undefined, { to: 3 })[0]).toBe("KEK version 3 was destroyed");
});

test("while a rotation 1 → 2 is open, only its own versions can be asked for", () => {
  const open = rotation(2);
  const other = ["a rotation 1 → 2 is open (phase 2, running)", nextStepsText(open)];
  expect(plan(open, { to: 2 }).kind).toBe("resume");
  expect(plan(open, { to: 2, from: 1 }).kind).toBe("resume");
  expect(plan(open, { to: 1, from: 2 })).toEqual({ kind: "reverse", from: 2, to: 1, replaces: open });
  for (const wanted of [{ to: 2, from: 3 }, { to: 2, from: 2 }, { to: 4 }, { to: 4, from: 2 }, { to: 1, from: 3 }]) {
    expect(refusal(open, wanted)).toEqual(other as [string, string]);
  }
  // Back without --from-version: it must be meant.
  expect(refusal(open, { to: 1 })).toEqual(other as [string, string]);
});

test("phases 1 and 3 and repairs have no reverse rotation", () => {
  for (const back of [{ to: 1 }, { to: 1, from: 2 }]) {
    expect(refusal(rotation(1), back)).toEqual([
      "the rotation 1 → 2 is in phase 1: no record has changed yet",
      "cancel it: certautopilot kek rotate --cancel",
    ]);
    expect(refusal(rotation(2, { repairs: true }), back)[0]).toMatch(/only repairs stale envelopes of version 1/);
    expect(refusal(rotation(3), back)).toEqual([
      "the rotation 1 → 2 is in phase 3: every record is at version 2",
      nextStepsText(rotation(3)),
    ]);
  }
});
