import { expect, test } from "bun:test";
import { join } from "node:path";
import { countRight, library, seed } from "../harness/library.ts";
import { run, stop, testInstall, type Variables } from "../harness/program.ts";

/** A program in another language that knows only docs/format.md reads and writes the same database. */

const FOREIGN = join(import.meta.dir, "../independent/foreign.py");
const PYTHON = process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3";

// biome-ignore lint/suspicious/noExplicitAny: results are compared, not used
async function foreign(words: string[], variables: Variables): Promise<{ code: number; out: any; said: string }> {
  const env = { PATH: process.env["PATH"] ?? "", ...variables };
  const target = [
    "--uri",
    variables["CERTAUTOPILOT_DATABASE_URI"] as string,
    "--db",
    variables["CERTAUTOPILOT_DATABASE_NAME"] as string,
  ];
  const child = Bun.spawn([PYTHON, FOREIGN, words[0] as string, ...target, ...words.slice(1)], {
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, said, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (out.trim() === "") throw new Error(`foreign.py ${words.join(" ")} ended with ${code}: ${said}`);
  return { code, out: JSON.parse(out.trim().split("\n").at(-1) as string), said };
}

test("1,000 records each way, before and after a rotation, and while processes follow it", async () => {
  const install = await testInstall();
  const operator = install.variables([1, 2], 2);
  const seeder = await library(install, [1], 1, "seeder");
  await seed(seeder, install, 1000);
  await seeder.close();
  const ours = await library(install, [1, 2], 2, "ours");
  const fleet = await Promise.all([install.serve("a", [1, 2], 2), install.serve("b", [1, 2], 2)]);

  const theirs = ["--collection", "foreign", "--path", "nested.secret"];
  const written = await foreign(
    ["write", ...theirs, "--count", "1000", "--version", "1", "--seed", "before", "--mixed-ids"],
    operator,
  );
  expect(written.out).toMatchObject({ written: 1000 });
  const readOurs = (version: number) =>
    foreign(["read", "--collection", "secrets", "--path", "value", "--expect-version", String(version)], operator);
  expect(await readOurs(1)).toMatchObject({ code: 0, out: { read: 1000, ok: 1000, bad: [] } });
  const digests = async () => [
    (await foreign(["digest", ...theirs], operator)).out,
    (await foreign(["digest", "--collection", "secrets", "--path", "value"], operator)).out,
  ];
  const before = await digests();

  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], operator);
  expect(rotated.stderr).not.toContain("error:");
  expect(rotated.json).toMatchObject({ rewrapped: 2000, state: "completed" });

  // Every record, theirs and ours, at version 2, with version 2's key alone; not a byte of any ciphertext changed.
  const onlyV2 = install.variables([2], 2);
  expect(await digests()).toEqual(before);
  expect(await foreign(["read", ...theirs, "--expect-version", "2", "--seed", "before"], onlyV2)).toMatchObject({
    code: 0,
    out: { ok: 1000, bad: [] },
  });
  expect(await readOurs(2)).toMatchObject({ code: 0, out: { ok: 1000 } });
  expect((await foreign(["canaries"], onlyV2)).out).toEqual({ "2": true });

  // And after it: they write under 2, we read every envelope that there is.
  await foreign(["write", ...theirs, "--count", "1000", "--version", "2", "--seed", "after"], operator);
  const verified = await run(["kek", "verify", "--records", "--json"], onlyV2);
  expect(verified.json).toMatchObject({ ready: true, records: 3000, opened: 3000, failed: 0 });
  expect(await countRight(ours, install)).toBe(1000);
  const version_counts = (await run(["kek", "status", "--json"], operator)).json.version_counts;
  expect(version_counts).toContainEqual({ field: "foreign:nested.secret", version: "2", count: 2000 });
  await stop(...fleet);
});
