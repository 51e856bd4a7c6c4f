import { expect, test } from "bun:test";
import { Binary } from "mongodb";
import { makeCanary } from "../../src/providers/canary.ts";
import { EnvProvider } from "../../src/providers/env.ts";
import { countRight, library, seed, versionsOf } from "../harness/library.ts";
import { kekHex, run, stop, testInstall, until } from "../harness/program.ts";

/** A number that is forgotten and made again: whoever holds it verifies it again, or does not say that it holds it. */

test("a staged version that is removed while processes hold it is made again, and rotates", async () => {
  const install = await testInstall();
  const seeder = await library(install, [1], 1, "seeder");
  await seed(seeder, install, 50);
  await seeder.close();
  const fleet = [await install.serve("a", [1, 2], 2), await install.serve("b", [1, 2], 2)];
  const operator = install.variables([1, 2], 2);
  const canary = async () => (await install.db.collection("kek_versions").findOne({ _id: 2 as never }))?.["canary"];
  const before = await canary();

  const removed = await run(["kek", "remove", "--version=2", "--json"], operator);
  expect(removed.json).toMatchObject({ outcome: "forgotten" });
  expect(removed.json.remaining).toHaveLength(2);
  await until("made again", async () => (await canary()) !== undefined);
  expect(await canary()).not.toEqual(before);

  await until(
    "ready",
    async () => (await run(["kek", "verify", "--target=2", "--no-backup-check"], operator)).code === 0,
  );
  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], operator);
  expect(rotated.json).toMatchObject({ state: "completed", rewrapped: 50 });
  const reader = await library(install, [2], 2, "reader");
  expect(await countRight(reader, install)).toBe(50);
  await stop(...fleet);
});

test("a process that holds other bytes than the version made again says so, and nothing is written under it", async () => {
  const install = await testInstall();
  const seeder = await library(install, [1], 1, "seeder");
  await seed(seeder, install, 20);
  await seeder.close();
  const process = await install.serve("holder", [1, 2], 2);
  const operator = install.variables([1, 2], 2);
  expect((await run(["kek", "verify", "--target=2", "--no-backup-check"], operator)).code).toBe(0);

  // Somebody else has staged 2 again, with other bytes, before this process looked again.
  const doc = await install.db.collection("kek_install").findOne({});
  const stranger = new EnvProvider({ keks: { 2: { setting: "stranger", hex: kekHex() } }, secretsFile: undefined });
  stranger.load(2);
  const { canary, digest } = await makeCanary(stranger, doc?.["install_id"], 2);
  const set = { canary: new Binary(canary, 0), canary_digest: new Binary(digest, 0) };
  await install.db.collection("kek_versions").updateOne({ _id: 2 as never }, { $set: set });

  await until("named", async () => {
    const verified = await run(["kek", "verify", "--target=2", "--no-backup-check", "--json"], operator);
    return (
      verified.code === 3 && verified.json.problems.some((problem: { code: string }) => problem.code === "wrong_key")
    );
  });
  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check"], operator);
  expect(rotated.code).toBe(3);
  expect(rotated.stderr).toContain("other bytes under KEK version 2");
  expect(await versionsOf(install)).toEqual({ "1": 20 });
  await stop(process);
});
