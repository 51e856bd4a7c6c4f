import { expect, test } from "bun:test";
import { withTimeLimit } from "../../src/util/time_limit.ts";

test("work in time gives its result or its error, and late work what onTimeout gives or throws", async () => {
  expect(await withTimeLimit(10_000, Promise.resolve(1), () => 2)).toBe(1);
  expect(await withTimeLimit(10_000, Promise.resolve(undefined), () => 2)).toBeUndefined();
  expect(withTimeLimit(10_000, Promise.reject(new Error("work")), () => 2)).rejects.toThrow("work");
  const never = new Promise<number>(() => undefined);
  expect(await withTimeLimit(1, never, () => 2)).toBe(2);
  const late = withTimeLimit(1, never, () => {
    throw new Error("late");
  });
  expect(late).rejects.toThrow("late");
});

test("work that fails after the limit ends nothing", async () => {
  let fail = (_: Error) => {};
  const work = new Promise<number>((_, reject) => {
    fail = reject;
  });
  expect(await withTimeLimit(1, work, () => "late")).toBe("late");
  fail(new Error("too late"));
  // An unhandled rejection would fail this test run.
  await new Promise((resolve) => setImmediate(resolve));
});
