import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run, start } from "../harness/program.ts";

/** The demo makes everything itself and leaves nothing behind. */

const MONGOD = { CERTAUTOPILOT_MONGOD: process.env["CERTAUTOPILOT_MONGOD"] as string };

/** A directory for temporary files in which everything left behind can be seen. */
function scratch(): string {
  return mkdtempSync(join(tmpdir(), "certautopilot-demo-test-"));
}

test("the demo rotates live traffic, verifies it, and cleans up", async () => {
  const directory = scratch();
  // CI=true, as where it is a smoke test: the lines are the same.
  const demo = await run(["demo", "--records=2000", "--json"], { ...MONGOD, TMPDIR: directory, CI: "true" });
  expect(demo.stderr).not.toContain("error:");
  expect(demo.stderr).toStartWith("starting a private mongod");
  expect(demo.code).toBe(0);
  expect(demo.json).toMatchObject({
    records: 2000,
    opened_with_v2_alone: 2000,
    ciphertexts_changed: 0,
    failed_reads_and_writes: 0,
    rotation: { from: 1, to: 2, state: "completed", fenced: true },
    audit: { whole: true },
  });
  expect(demo.json.reads_during_rotation).toBeGreaterThan(50);
  expect(demo.json.writes_during_rotation).toBeGreaterThan(20);
  expect(demo.json.ciphertexts_compared).toBeGreaterThan(1000);
  expect(readdirSync(directory).filter((name) => name.startsWith("certautopilot"))).toEqual([]);
  rmSync(directory, { recursive: true });
});

test("Ctrl-C in the middle of the demo leaves no process and no file", async () => {
  const directory = scratch();
  const demo = start(["demo", "--records=2000"], { ...MONGOD, TMPDIR: directory });
  await demo.says("phase 2", 60_000);
  demo.kill("SIGINT");
  const ended = await demo.exited;
  expect(ended.code).toBe(5);
  expect(ended.stderr).toContain("error: the demo was stopped (SIGINT)");
  expect(readdirSync(directory).filter((name) => name.startsWith("certautopilot"))).toEqual([]);
  const left = Bun.spawnSync(["pgrep", "-f", directory]).stdout.toString().trim();
  expect(left).toBe("");
  rmSync(directory, { recursive: true });
});
