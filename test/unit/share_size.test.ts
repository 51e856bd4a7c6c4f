import { expect, test } from "bun:test";
import { ShareSize } from "../../src/providers/pkcs11/share_size.ts";

const WIDE = { now: 32, searching: false };
const ALONE = { now: 1, searching: false };

test("the first share is one operation: how long one takes is not known", () => {
  expect(new ShareSize().of(4000, ALONE)).toBe(1);
});

test("a share is a sixth of a second's work, a fifth of that while the number of sessions is found out, and 64 at most", () => {
  const slow = new ShareSize();
  for (let share = 0; share < 20; share += 1) slow.done(10, 60);
  expect(slow.of(4000, WIDE)).toBe(24);
  expect(slow.of(4000, { now: 32, searching: true })).toBe(4);
  const quick = new ShareSize();
  for (let share = 0; share < 20; share += 1) quick.done(64, 5);
  expect(quick.of(4000, ALONE)).toBe(64);
});

test("what there is is shared out evenly, and never in shares of none", () => {
  const size = new ShareSize();
  for (let share = 0; share < 20; share += 1) size.done(10, 60);
  expect(size.of(64, WIDE)).toBe(2);
  expect(size.of(5, WIDE)).toBe(1);
  for (let share = 0; share < 20; share += 1) size.done(1, 10_000);
  expect(size.of(4000, WIDE)).toBe(1);
});

test("after a call that nobody answered the next share is small at once, and one hiccup is not enough for that", () => {
  const size = new ShareSize();
  for (let share = 0; share < 20; share += 1) size.done(10, 60);
  size.failed(24, 30_000);
  expect(size.of(4000, WIDE)).toBe(1);
  const hiccup = new ShareSize();
  for (let share = 0; share < 20; share += 1) hiccup.done(10, 60);
  hiccup.done(10, 120);
  expect(hiccup.of(4000, WIDE)).toBe(16);
});
