import { expect, test } from "bun:test";
import { Width } from "../../src/providers/pkcs11/width.ts";

/** How many sessions are kept busy, against tokens that exist on paper only: so much done a millisecond by so many sessions. */

type Token = (sessions: number, at: number) => number;

/** Each session's operation takes a millisecond, whatever the others do. */
const network: Token = (sessions) => sessions;
/** This machine's own processor does the work: a second session helps a little, more of them stand in each other's way. */
const local: Token = (sessions) => 4 / (1 + 0.05 * sessions);
/** Two processors. */
const dual: Token = (sessions) => 4 * Math.min(2, sessions);
/** A network HSM that can do no more than eight at a time. */
const eight: Token = (sessions) => Math.min(8, sessions);

const STEP_MS = 5;

/** @returns the width at the end, and how it went. */
function run(width: Width, token: Token, ms: number, { from = 0, waiting = true, settled = true } = {}): number[] {
  const seen: number[] = [];
  for (let at = from; at < from + ms; at += STEP_MS) {
    const busy = width.now;
    const operations = token(busy, at) * STEP_MS;
    for (let session = 0; session < busy; session += 1) width.done(operations / busy, waiting, settled, at);
    seen.push(width.now);
  }
  return seen;
}

/** How much of the time it was so. */
function share(seen: number[], so: (now: number) => boolean): number {
  return seen.filter(so).length / seen.length;
}

test("a token that latency holds back is asked by all the sessions there may be, after a second or two", () => {
  for (const limit of [1, 2, 4, 11, 16, 32]) {
    const width = new Width(limit);
    run(width, network, 2000);
    const seen = run(width, network, 60_000, { from: 2000 });
    expect(Math.max(...seen)).toBe(limit);
    expect(share(seen, (now) => now === limit)).toBeGreaterThan(0.97);
  }
});

test("a token that computes here is asked by one session, and seldom by two to find out", () => {
  const width = new Width(32);
  const seen = run(width, local, 60_000);
  expect(Math.max(...seen)).toBe(2);
  expect(share(seen, (now) => now === 1)).toBeGreaterThan(0.85);
  expect(share(run(width, local, 300_000, { from: 60_000 }), (now) => now === 1)).toBeGreaterThan(0.95);
});

test("what looks like gain, because threads that have just started grow faster, is given back", () => {
  const warming: Token = (sessions, at) => local(sessions, at) * Math.min(1, 0.1 + at / 1500);
  const width = new Width(32);
  run(width, warming, 30_000);
  expect(share(run(width, warming, 30_000, { from: 30_000 }), (now) => now <= 2)).toBeGreaterThan(0.9);
});

test("a token that is near is not asked by more while its first session still grows faster by itself", () => {
  const warming: Token = (sessions, at) => local(sessions, at) * Math.min(1, 0.6 + at / 1500);
  expect(run(new Width(32), warming, 2000)).toEqual(Array(400).fill(1));
});

test("a token that is far is asked by all within a few windows", () => {
  const far: Token = (sessions) => sessions / 6;
  const width = new Width(32);
  expect(width.searching).toBe(true);
  expect(run(width, far, 500).at(-1)).toBe(32);
  expect(width.searching).toBe(false);
});

test("a token that is near and does more for more is given them too, once its first session is warm", () => {
  const width = new Width(32);
  run(width, (sessions) => sessions * 3, 5000);
  expect(width.now).toBe(32);
});

test("a far token that does no more than eight at a time is asked by eight, though the way up went past them", () => {
  const width = new Width(64);
  const seen = run(width, (sessions) => Math.min(8, sessions) / 6, 60_000);
  expect(Math.max(...seen)).toBe(64);
  expect(share(seen, (now) => now === 8)).toBeGreaterThan(0.8);
});

test("bursts with nothing to do in between tell no more of a token than work without a break", () => {
  const contended: Token = (sessions) => (sessions === 1 ? 8 : 4.4);
  const width = new Width(32);
  const seen: number[] = [];
  for (let second = 0; second < 120; second += 1) {
    seen.push(...run(width, contended, 250, { from: second * 1000 }));
    width.idle();
  }
  expect(Math.max(...seen)).toBe(2);
  expect(share(seen, (now) => now === 1)).toBeGreaterThan(0.85);
});

test("growth ends where the token does no more", () => {
  for (const [token, most] of [
    [dual, 2],
    [eight, 8],
  ] as const) {
    const seen = run(new Width(32), token, 60_000);
    expect(Math.max(...seen)).toBe(2 * most);
    expect(share(seen, (now) => now === most)).toBeGreaterThan(0.9);
  }
});

test("a token that becomes a fast one is found out, also long after it was given up", () => {
  const width = new Width(32);
  run(width, local, 200_000);
  run(width, network, 130_000, { from: 200_000 });
  expect(share(run(width, network, 10_000, { from: 330_000 }), (now) => now === 32)).toBeGreaterThan(0.9);
});

test("a token whose answers take fifty times as long from one moment on is asked by all within three seconds", () => {
  // First as fast with four sessions as with more; then each call takes 50 ms, however many there are.
  const fast: Token = (sessions) => Math.min(4, sessions);
  const slow: Token = (sessions) => sessions / 50;
  const width = new Width(32);
  run(width, fast, 120_000);
  expect(width.now).toBeLessThanOrEqual(8);
  run(width, slow, 3000, { from: 120_000 });
  expect(width.now).toBe(32);
});

test("sessions that a token has no more use for are given up", () => {
  const width = new Width(32);
  run(width, network, 200_000);
  run(width, local, 130_000, { from: 200_000 });
  expect(share(run(width, local, 30_000, { from: 330_000 }), (now) => now === 1)).toBeGreaterThan(0.9);
});

test("nothing is learnt while there is too little to do, or sessions are still being opened", () => {
  expect(Math.max(...run(new Width(32), network, 5000, { waiting: false }))).toBe(1);
  expect(Math.max(...run(new Width(32), network, 5000, { settled: false }))).toBe(1);
});

test("a limit that is lowered holds at once", () => {
  const width = new Width(32);
  run(width, network, 1000);
  width.atMost(3);
  expect(width.now).toBe(3);
  expect(Math.max(...run(width, network, 60_000, { from: 1000 }))).toBe(3);
});

test("rates that waver by a twentieth neither drive it up nor hold it down", () => {
  const noisy = (token: Token): Token => {
    let turn = 0;
    return (sessions, at) => {
      turn += 1;
      return token(sessions, at) * (1 + 0.05 * Math.sin(turn / 16));
    };
  };
  expect(share(run(new Width(32), noisy(local), 120_000), (now) => now === 1)).toBeGreaterThan(0.85);
  const width = new Width(32);
  run(width, noisy(network), 3000);
  expect(share(run(width, noisy(network), 30_000, { from: 3000 }), (now) => now === 32)).toBeGreaterThan(0.9);
});
