import { expect, test } from "bun:test";
import { type KeyPolicy, keyPolicyOf, rollbackIn, versionsToHold } from "../../src/protocol/key_policy.ts";
import { rotation, version } from "../harness/facts.ts";

/** A member does not follow a key policy that went backwards. */

const BEFORE: KeyPolicy = { rotation: 3, epoch: 7, phase: 2, readable: [1, 2], write: 2, leaving: undefined };
const CHANGES: Partial<KeyPolicy>[] = [{ rotation: 4 }, { phase: 1 }, { readable: [1] }, { write: 1 }];

test("the first key policy is followed", () => {
  expect(rollbackIn(undefined, BEFORE)).toBeUndefined();
});

test("an epoch that went back is refused, whatever else it says", () => {
  expect(rollbackIn(BEFORE, { ...BEFORE, epoch: 6 })).toBe("its epoch went back from 7 to 6");
  for (const change of CHANGES) {
    expect(rollbackIn(BEFORE, { ...BEFORE, ...change, epoch: 6 })).toBe("its epoch went back from 7 to 6");
  }
});

test("a change needs a higher epoch", () => {
  for (const change of CHANGES) {
    expect(rollbackIn(BEFORE, { ...BEFORE, ...change })).toBe("it changed while its epoch stayed 7");
    expect(rollbackIn(BEFORE, { ...BEFORE, ...change, epoch: 8 })).toBeUndefined();
  }
});

test("the same key policy is followed again, at this epoch and at a higher one", () => {
  expect(rollbackIn(BEFORE, { ...BEFORE, readable: [1, 2] })).toBeUndefined();
  expect(rollbackIn(BEFORE, { ...BEFORE, epoch: 8 })).toBeUndefined();
});

test("versions to hold are sorted, each once", () => {
  const versions = [version(2, "active"), version(1, "retired"), version(12, "staged"), version(9, "staged")];
  const policy = keyPolicyOf(versions, rotation(2, { from: 2, to: 1 })) as KeyPolicy;
  expect(versionsToHold(policy, versions)).toEqual([1, 2, 9, 12]);
  expect(versionsToHold({ ...policy, readable: [9, 2] }, versions)).toEqual([2, 9, 12]);
});
