import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { PacePoint } from "../../src/protocol/documents.ts";
import { rates, recentRate, thinned } from "../../src/status/rewrap_rate.ts";

/** [second, records done] */
const points = (...pairs: [number, number][]): PacePoint[] =>
  pairs.map(([second, done]) => ({ at: new Date(second * 1000), done }));
const at = (second: number) => new Date(second * 1000);
const steps = (count: number, seconds: number, done: number, from = 0): [number, number][] =>
  Array.from({ length: count }, (_, index) => [from + index * seconds, index * done]);

describe("how fast it goes", () => {
  const cases: [string, [number, number][], number, number | null][] = [
    ["nothing is known yet", [], 0, null],
    ["one point is no rate", [[0, 50]], 0, null],
    ["a point a second", steps(20, 1, 100), 19, 100],
    [
      "over the last seconds only",
      [...steps(60, 1, 10), [60, 1590], [61, 2590], [62, 3590], [63, 4590], [64, 5590]],
      64,
      1000,
    ],
    ["no news for a while: nothing moves", steps(20, 1, 100), 35, null],
    ["batches of a slow HSM", steps(5, 25, 500), 160, 20],
    ["those do end, too", steps(5, 25, 500), 200, null],
    [
      "a new coordinator counts from where it began",
      [
        [0, 0],
        [1, 1000],
        [3600, 1000],
        [3601, 1200],
      ],
      3601,
      200,
    ],
    [
      "and has nothing to tell at first",
      [
        [0, 0],
        [1, 1000],
        [3600, 1000],
      ],
      3600,
      null,
    ],
    [
      "counted again",
      [
        [0, 500],
        [1, 480],
        [2, 460],
      ],
      2,
      0,
    ],
    [
      "waiting: nothing moves",
      [
        [0, 500],
        [5, 500],
        [10, 500],
      ],
      10,
      0,
    ],
    ["the clock was set back by an hour", [...steps(9, 1, 7, 3600), [0, 100], [1, 200], [2, 300]], 2, 100],
  ];
  test.each(cases)("%s", (_, pairs, now, expected) => {
    expect(recentRate(points(...pairs), at(now))).toEqual(expected === null ? null : expect.closeTo(expected, 6));
  });

  test("over time: never negative, and in the order of time", () => {
    expect(rates(points([0, 0], [2, 100], [1, 150], [4, 450], [5, 440]))).toEqual([
      { at: at(1), done: 150, rate: 150 },
      { at: at(4), done: 450, rate: 100 },
      { at: at(5), done: 440, rate: 0 },
    ]);
    expect(rates([])).toEqual([]);
  });
});

describe("thinned", () => {
  /** As a coordinator does: a point, then thinned. Now and then the clock jumps. */
  const walk = fc.array(
    fc.record({
      ms: fc.oneof(
        { weight: 20, arbitrary: fc.integer({ min: 900, max: 1500 }) },
        { weight: 1, arbitrary: fc.integer({ min: -100_000, max: 10_000_000 }) },
      ),
      done: fc.nat(1000),
    }),
    { minLength: 1, maxLength: 400 },
  );

  test("stays small, in order, and keeps the newest dense, however long it continues", () => {
    fc.assert(
      fc.property(walk, (deltas) => {
        let [kept, time, done]: [PacePoint[], number, number] = [[], 1e12, 0];
        for (const delta of deltas) {
          time += delta.ms;
          done += delta.done;
          const all = [...kept, { at: new Date(time), done }];
          kept = thinned(all);
          expect(kept.length).toBeLessThanOrEqual(61);
          expect(kept.at(-1)).toEqual({ at: new Date(time), done });
          const times = kept.map((point) => point.at.getTime());
          expect(times).toEqual([...new Set(times)].sort((a, b) => a - b));
          // Nothing is made up, and thinning what is thin changes nothing.
          expect(all).toEqual(expect.arrayContaining(kept));
          expect(thinned(kept)).toEqual(kept);
        }
      }),
      { numRuns: 40 },
    );
  });

  test("six hours: the first second is there still, no part is empty, and the rate is that of the last seconds", () => {
    let kept: PacePoint[] = [];
    for (let second = 0; second <= 21_600; second += 1) {
      const done = second < 21_590 ? second * 10 : 215_900 + (second - 21_590) * 500;
      kept = thinned([...kept, { at: at(second), done }]);
    }
    expect(kept.length).toBeLessThanOrEqual(61);
    expect(kept[0]?.at).toEqual(at(0));
    const gaps = kept.slice(1).map((point, index) => point.at.getTime() - (kept[index]?.at.getTime() ?? 0));
    expect(Math.max(...gaps)).toBeLessThan((3 * 21_600_000) / 48);
    expect(recentRate(kept, at(21_600))).toBeCloseTo(500, 6);
  });
});
