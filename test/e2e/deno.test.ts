import { expect, test } from "bun:test";
import { addressOf, PAGE_PATH } from "../harness/address.ts";
import { countRight, library, seed, versionsOf } from "../harness/library.ts";
import { FAST, type Running, run, stop, testInstall } from "../harness/program.ts";

/** The same sources under Deno, in one fleet with the compiled binary. */
test("serve, verify, rotate, status and remove run under Deno", async () => {
  // A process under Deno takes its time to load a worker on a busy machine.
  const install = await testInstall({ ...FAST, leaseMs: 10_000, evictionMs: 20_000 });
  const operator = install.variables([1, 2], 2);
  const seeder = await library(install, [1], 1, "seeder");
  await seed(seeder, install, 600);
  await seeder.close();
  const fleet = await Promise.all([install.serve("deno", [1, 2], 2, {}, "deno"), install.serve("binary", [1, 2], 2)]);

  // The page, its parts and its events come from there as well.
  const address = addressOf(fleet[0] as Running);
  const page = await (await fetch(address + PAGE_PATH)).text();
  expect(page).toContain("<h1>KEK Versions</h1>");
  const [stylesheet] = /\/settings\/kek-versions\/\w+\.css/.exec(page) ?? [];
  expect((await fetch(`${address}${stylesheet}`)).headers.get("content-type")).toBe("text/css; charset=utf-8");
  const events = (await fetch(`${address}${PAGE_PATH}/events`)).body?.getReader();
  expect(new TextDecoder().decode((await events?.read())?.value)).toContain("event: release");
  await events?.cancel();

  const verified = await run(["kek", "verify", "--target=2", "--no-backup-check", "--json"], operator, "deno");
  expect(verified.stderr).toBe("");
  expect(verified.json.processes.map((entry: { instance_name: string }) => entry.instance_name).sort()).toEqual([
    "binary",
    "deno",
  ]);
  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], operator, "deno");
  expect(rotated.stderr).not.toContain("error:");
  expect(rotated.json).toMatchObject({ rewrapped: 600, state: "completed" });
  expect(await versionsOf(install)).toEqual({ "2": 600 });
  expect((await run(["kek", "status", "--json"], operator, "deno")).json.versions).toHaveLength(2);

  await stop(...fleet);
  const reader = await library(install, [2], 2, "reader");
  expect(await countRight(reader, install)).toBe(600);
  await reader.close();
  expect((await run(["kek", "remove", "--version=1"], operator, "deno")).code).toBe(0);
});
