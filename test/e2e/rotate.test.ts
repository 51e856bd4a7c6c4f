import { expect, test } from "bun:test";
import { countRight, library, seed, versionsOf } from "../harness/library.ts";
import { run, stop, testInstall } from "../harness/program.ts";

/** The main job through the compiled binary: three processes, v1 → v2, back, and forward to v3. */
test("a fleet rotates, goes back, and continues", async () => {
  const install = await testInstall();
  const first = await library(install, [1, 2, 3], 1, "seeder");
  await seed(first, install, 1200);
  const before = await install.db.collection("secrets").find().sort({ _id: 1 }).toArray();
  await first.close();
  const fleet = await Promise.all(["a", "b", "c"].map((name) => install.serve(name, [1, 2, 3], 2)));
  const operator = install.variables([1, 2, 3], 2);

  const verified = await run(["kek", "verify", "--target=2", "--no-backup-check", "--json"], operator);
  expect(verified.code).toBe(0);
  expect(verified.json.ready).toBe(true);
  const rotated = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], operator);
  expect(rotated.stderr).toContain("phase 3");
  expect(rotated.code).toBe(0);
  expect(rotated.json).toMatchObject({ from: 1, to: 2, state: "completed", rewrapped: 1200 });
  expect(await versionsOf(install)).toEqual({ "2": 1200 });

  // Only the wraps changed.
  const after = await install.db.collection("secrets").find().sort({ _id: 1 }).toArray();
  const payload = (records: typeof before) =>
    records.map((record) => [record["value"].nonce, record["value"].ciphertext]);
  expect(payload(after)).toEqual(payload(before));
  const v2 = await library(install, [2], 2, "v2-alone");
  expect(await countRight(v2, install)).toBe(1200);
  await v2.close();

  const versions = await install.db.collection("kek_versions").find().sort({ _id: 1 }).toArray();
  expect(versions.map((doc) => doc["state"])).toEqual(["retired", "active", "staged"]);

  // The reverse rotation, although every process declares 2: --from-version says that it is meant.
  const back = await run(["kek", "rotate", "--to-version=1", "--from-version=2", "--json"], operator);
  expect(back.code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "1": 1200 });

  const v1 = await library(install, [1], 1, "v1-alone");
  expect(await countRight(v1, install)).toBe(1200);
  await v1.close();
  const audit = await run(["audit", "verify", "--json"], operator);
  expect(audit.json.whole).toBe(true);
  await stop(...fleet);
  expect(await install.db.collection("process_heartbeats").countDocuments()).toBe(0);
});

test("a rotation leaves room for services that read meanwhile, and says so; not where nobody does, or full speed is asked for", async () => {
  const NOTE = "somebody reads secrets meanwhile: records move a batch at a time";
  const install = await testInstall();
  const seeder = await library(install, [1, 2], 1, "seeder");
  await seed(seeder, install, 400);
  await seeder.close();
  const fleet = [await install.serve("a", [1, 2], 2)];
  const rotate = async (to: number, ...flags: string[]) => {
    const words = [
      "kek",
      "rotate",
      `--to-version=${to}`,
      `--from-version=${3 - to}`,
      "--no-backup-check",
      "--yes",
      "--batch-size=4",
      ...flags,
    ];
    const ran = await run(words, install.variables([1, 2], 2));
    expect([ran.code, await versionsOf(install)]).toEqual([0, { [to]: 400 }]);
    return ran.stderr;
  };
  expect(await rotate(2)).not.toContain(NOTE);

  let going = true;
  const reading = (async () => {
    while (going) await Promise.all(Array.from({ length: 4 }, () => install.db.collection("secrets").findOne({})));
  })();
  try {
    expect(await rotate(1)).toContain(NOTE);
    expect(await rotate(2, "--concurrency=2")).not.toContain(NOTE);
  } finally {
    going = false;
    await reading;
  }
  const v2 = await library(install, [2], 2, "v2-alone");
  expect(await countRight(v2, install)).toBe(400);
  await v2.close();
  await stop(...fleet);
});
