import { expect, test } from "bun:test";
import { OperationTiming } from "../../src/providers/pkcs11/operation_timing.ts";

/** How many sessions are used and how much each is given, by how long operations and calls took. */

test("one session is used until a call has been measured", () => {
  const timing = new OperationTiming(2);
  expect(timing.sessions(32)).toBe(1);
  timing.done(1, 400, Number.NaN);
  expect(timing.sessions(32)).toBe(1);
});

test("a remote token gets all sessions, a local one gets one for each processor", () => {
  for (const [callMs, sessions] of [
    [0.5, 32],
    [50, 32],
    [0.02, 4],
  ] as const) {
    const timing = new OperationTiming(4);
    timing.done(10, 10 * callMs, callMs);
    expect(timing.sessions(32)).toBe(sessions);
  }
  const timing = new OperationTiming(4);
  timing.done(1, 1, 0.02);
  expect(timing.sessions(2)).toBe(2);
});

test("a token that becomes slow gets all sessions at once, and a busy machine does not make a local token remote", () => {
  const slower = new OperationTiming(2);
  for (let batch = 0; batch < 20; batch += 1) slower.done(32, 32, 1);
  slower.done(1, 100, 50);
  expect(slower.sessions(32)).toBe(32);
  const busy = new OperationTiming(2);
  busy.done(32, 1, 0.02);
  for (let batch = 0; batch < 5; batch += 1) busy.done(32, 10, 0.3);
  expect(busy.sessions(32)).toBe(2);
  busy.done(32, 1, 0.02);
  expect(busy.sessions(32)).toBe(2);
});

test("a batch is an even part of what waits, and takes about 150 ms at most", () => {
  const timing = new OperationTiming(2);
  for (let batch = 0; batch < 30; batch += 1) timing.done(10, 20, 1);
  expect(timing.batch(64, 32)).toBe(2);
  expect(Math.abs(timing.batch(10_000, 32) - 75)).toBeLessThan(2);
  expect(timing.batch(1, 32)).toBe(1);
  timing.failed(1, 5000);
  expect(timing.batch(10_000, 32)).toBe(1);
});
