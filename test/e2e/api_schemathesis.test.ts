import { expect, test } from "bun:test";
import { join } from "node:path";
import { apiToken } from "../harness/api.ts";
import { addressOf } from "../harness/hsm_install.ts";
import { stop, testInstall } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** A tester that knows only the OpenAPI document makes up requests, right ones and wrong ones, and compares every answer. */

const directory = scratchDirectory();
const INDEPENDENT = join(import.meta.dir, "../independent");
const CONFIGURATION = join(INDEPENDENT, "schemathesis.toml");

test("schemathesis finds nothing", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const serving = await install.serve("api-1", [1], 1, variables);
  const words = ["--config-file", CONFIGURATION, "--no-color", "run", `${addressOf(serving)}/v1/openapi.json`];
  const how = ["--seed=1", "--max-examples=20", "--checks=all", "--continue-on-failure"];
  const child = Bun.spawn([process.env["CERTAUTOPILOT_TEST_SCHEMATHESIS"] ?? "schemathesis", ...words, ...how], {
    cwd: directory,
    env: {
      PATH: process.env["PATH"] ?? "",
      CERTAUTOPILOT_TEST_TOKEN: token,
      SCHEMATHESIS_HOOKS: "schemathesis_hooks",
      PYTHONPATH: INDEPENDENT,
    },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [said, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  expect({ code, said }).toEqual({ code: 0, said: expect.stringContaining("No issues found") });
  // It asked both operations, and not just once.
  expect(said).toMatch(/Tested: 2/);
  expect(Number(/(\d+) generated/.exec(said)?.[1])).toBeGreaterThan(500);
  expect(serving.stderr).not.toContain("unexpected error");
  await stop(serving);
});
