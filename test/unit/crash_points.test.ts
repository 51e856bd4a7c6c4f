import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { armCrashPoint, CRASH_POINTS, crashPoint } from "../../src/errors/crash_point.ts";

/** Every crash point is once in the sources, where a release does not have it, and in a schedule of the tests. Unarmed it does nothing. */

const SRC = join(import.meta.dir, "../../src");
const TESTS = join(import.meta.dir, "..");

function textOf(directory: string, wanted: (name: string) => boolean): string {
  const names = readdirSync(directory, { recursive: true, encoding: "utf8" }).filter(wanted);
  return names.map((name) => readFileSync(join(directory, name), "utf8")).join("\n");
}

test("each is placed once, and no other name is", () => {
  const sources = textOf(SRC, (name) => name.endsWith(".ts"));
  const placed = [...sources.matchAll(/\bcrashPoint\("([^"]*)"\)/g)];
  expect(placed.map(([, name]) => name).sort()).toEqual([...CRASH_POINTS].sort());
  // A call that is not guarded would be in a release.
  expect(sources.match(/if \(import\.meta\.crashPoints\) crashPoint\("/g)?.length).toBe(CRASH_POINTS.length);
});

test("where the sources run without a build, they are off", () => {
  expect(import.meta.crashPoints).toBeUndefined();
});

test("each is tested", () => {
  const tests = textOf(TESTS, (name) => /^(e2e\/crash_points|host\/install).*\.test\.ts$/.test(name));
  expect(CRASH_POINTS.filter((name) => !new RegExp(`"${name}(:\\d+)?"`).test(tests))).toEqual([]);
});

test("unarmed they do nothing, and an unknown name is refused", () => {
  expect(armCrashPoint(undefined)).toBeUndefined();
  for (const name of CRASH_POINTS) crashPoint(name);
  for (const wrong of ["", "no.such", "phase.written:0", "phase.written:x"])
    expect(() => armCrashPoint(wrong)).toThrow("is no crash point");
});
