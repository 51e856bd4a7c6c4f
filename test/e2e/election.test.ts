import { expect, test } from "bun:test";
import { ownReplicaSet } from "../harness/other_mongod.ts";
import { stop, until } from "../harness/program.ts";
import { CALM, proveAll, rotating, seededInstall, serveAll } from "../harness/schedule.ts";

/** A primary that steps down in the middle of a rotation at full speed: nobody needs to do anything. */

const RECORDS = 20_000;

test("the primary steps down while every worker has a batch at MongoDB, and again: the rotation continues automatically", async () => {
  const install = await seededInstall(RECORDS, CALM, await ownReplicaSet());
  const fleet = await serveAll(install, "a");
  const secrets = install.db.collection("secrets");
  const moved = async () => await secrets.countDocuments({ "value.kek_version": 2 });
  const rotate = rotating(install, "--to-version=2", "--batch-size=200");
  for (const share of [0.1, 0.5]) {
    await until("under way", async () => (await moved()) > RECORDS * share);
    // With the records that are in flight: whoever asked for them is told that this is no primary any more.
    await install.db.client.db("admin").command({ replSetStepDown: 1, secondaryCatchUpPeriodSecs: 0, force: true });
  }
  const ran = await rotate.exited;
  expect(ran.stderr).not.toContain("error:");
  expect(ran.code).toBe(0);
  expect(ran.stderr).toContain("MongoDB did not answer: trying again while the lease holds");
  await proveAll(install, [2], RECORDS);
  await stop(...fleet);
});
