import { expect, test } from "bun:test";
import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { applyPlan } from "../../src/install/apply.ts";
import { prepareInstall } from "../../src/install/install.ts";
import { LAYOUT } from "../../src/install/layout.ts";
import type { InstallRequest } from "../../src/install/request.ts";
import { asked } from "../harness/install_asked.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** Between the plan and its first write an operator is asked, and may edit a file meanwhile. */

const root = join(scratchDirectory(), "root");
const request = (over: Partial<InstallRequest>) => asked({ root, units: "laid", binary: "/bin/sh", ...over });
const install = async (wanted: InstallRequest, edit = () => {}) => {
  const prepared = await prepareInstall(wanted);
  edit();
  const log = { info: () => undefined, warn: () => undefined };
  await applyPlan(prepared.steps, { ...prepared, request: wanted, log, interrupted: new AbortController().signal });
};

test("a line that was added since is not lost: install stops, and plans again", async () => {
  await install(request({}));
  const config = join(root, LAYOUT.config);
  const before = readFileSync(config, "utf8");
  const line = "# mine\n";
  const changed = request({ instanceName: "one" });
  await expect(install(changed, () => appendFileSync(config, line))).rejects.toThrow("was changed while install was");
  expect(readFileSync(config, "utf8")).toBe(before + line);
  await install(changed);
  expect(readFileSync(config, "utf8")).toContain(line);
  expect(readFileSync(config, "utf8")).toContain("instance_name: one");
});
