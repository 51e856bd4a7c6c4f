import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

/** What runs on every change: each action by its commit, and each group of ./scripts/test in a job. */

const ROOT = join(import.meta.dir, "../..");
const WORKFLOWS = join(ROOT, ".github/workflows");

test("each action is named by its commit, beside the version that the commit has", () => {
  const lines = readdirSync(WORKFLOWS).flatMap((name) => readFileSync(join(WORKFLOWS, name), "utf8").split("\n"));
  const uses = lines.filter((line) => /\buses:/.test(line));
  expect(uses.length).toBeGreaterThan(4);
  for (const line of uses) expect(line).toMatch(/uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
});

test("there is a job for each group, which keeps its log when it fails", () => {
  const { jobs } = parse(readFileSync(join(WORKFLOWS, "ci.yml"), "utf8"));
  const [, groups = ""] = /^ {2}groups=\(([a-z0-9 ]+)\)$/m.exec(readFileSync(join(ROOT, "scripts/test"), "utf8")) ?? [];
  expect(groups).toContain("checks");
  expect(jobs.test.strategy.matrix.group).toEqual(groups.split(" "));
  const last = jobs.test.steps.at(-1);
  expect([last.if, last.uses.split("@")[0]]).toEqual(["failure()", "actions/upload-artifact"]);
});
