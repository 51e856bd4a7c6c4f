import { expect, test } from "bun:test";
import { CachedVersionCounts } from "../../src/status/cached_version_counts.ts";
import { NO_FIELDS } from "../../src/store/field_facts.ts";

/** Counting for those who look once a second, when it takes long. */

const row = (count: number) => [{ field: "secrets:value", version: "1", count }];
const counts = (count: number) => ({ rows: row(count), fields: NO_FIELDS });

test("the last count is shown while a new one takes long, unless the state is another", async () => {
  const waiting: ((count: number) => void)[] = [];
  const version_counts = new CachedVersionCounts(async () =>
    counts(await new Promise<number>((resolve) => waiting.push(resolve))),
  );
  const first = version_counts.of(1, new Date(1));
  const also = version_counts.of(1, new Date(2));
  waiting[0]?.(100);
  expect([(await first).rows, (await also).rows]).toEqual([row(100), row(100)]);

  // It took next to nothing: by now another is due. It hangs, is begun once, and nobody waits long for it.
  await Bun.sleep(100);
  const began = performance.now();
  for (const look of [3, 4]) {
    expect(await version_counts.of(1, new Date(look))).toMatchObject({ rows: row(100), at: new Date(1) });
  }
  expect(performance.now() - began).toBeLessThan(15_000);
  expect(waiting).toHaveLength(2);

  // In another state the old one would call records astray.
  let done = false;
  const next = version_counts.of(2, new Date(5)).finally(() => {
    done = true;
  });
  await Bun.sleep(1300);
  expect(done).toBe(false);
  waiting[1]?.(60);
  await Bun.sleep(10);
  waiting[2]?.(40);
  expect((await next).rows).toEqual(row(40));
});

test("a count that fails is told, and the next look counts again", async () => {
  let fails = true;
  const version_counts = new CachedVersionCounts(async () => {
    if (fails) throw new Error("away");
    return counts(1);
  });
  expect(version_counts.of(1, new Date())).rejects.toThrow("away");
  await Bun.sleep(1);
  fails = false;
  expect((await version_counts.of(1, new Date())).rows).toEqual(row(1));
});
