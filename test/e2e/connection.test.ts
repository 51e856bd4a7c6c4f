import { expect, test } from "bun:test";
import { library, seed } from "../harness/library.ts";
import { adminCommand, primaryAndSecondary, uninitiatedMongod, untilHello } from "../harness/other_mongod.ts";
import { run, stop, testInstall } from "../harness/program.ts";
import { expectRefusal } from "../harness/refusal.ts";

/** What the URI says, and what MongoDB is at its other end: named at once, or without effect on a rotation. */

const [pair, uninitiated] = await Promise.all([primaryAndSecondary(), uninitiatedMongod()]);
const install = await testInstall();
const at = (uri: string) => ({ ...install.variables([1, 2], 2), CERTAUTOPILOT_DATABASE_URI: uri });
const VERIFY = ["kek", "verify"];

test("a rotation runs under any pool size and time limit in the URI", async () => {
  const limits = "minPoolSize=5&maxPoolSize=1&waitQueueTimeoutMS=1&socketTimeoutMS=1&connectTimeoutMS=1";
  const others = "serverSelectionTimeoutMS=1&maxIdleTimeMS=1&promoteLongs=false&raw=true&ignoreUndefined=true";
  const uri = `${install.uri}${install.uri.includes("?") ? "&" : "?"}${limits}&${others}`;
  const over = { CERTAUTOPILOT_DATABASE_URI: uri };
  const seeder = await library(install, [1, 2], 1, "seeder");
  await seed(seeder, install, 200);
  await seeder.close();
  const serving = await install.serve("one", [1, 2], 2, over);
  const ran = await run(["kek", "rotate", "--to-version=2", "--no-backup-check", "--yes", "--json"], at(uri));
  expect([ran.code, ran.json?.state, ran.json?.rewrapped]).toEqual([0, "completed", 200]);
  await stop(serving);
});

test("an option that contradicts the guarantees is refused before anything is connected, exit 2", async () => {
  for (const scheme of ["mongodb", "mongodb+srv"]) {
    const ran = await run(VERIFY, at(`${scheme}://u:secret@nowhere.invalid/?readConcernLevel=local&w=1`));
    const error = /DATABASE_URI.* sets readConcernLevel, w: /;
    expectRefusal(ran, { exit: 2, code: "config_invalid", error, hint: /remove readConcernLevel, w / }, false);
  }
});

test.concurrent("a replica set that is not initiated is named, with and without its name in the URI, exit 9", async () => {
  const error = new RegExp(`${uninitiated} runs with --replSet, and its replica set is not initiated`);
  const refusal = { exit: 9, code: "mongodb_no_replica_set", error, hint: /rs\.initiate\(\)/ };
  const queries = ["", "?replicaSet=rs0", "?directConnection=true", "?directConnection=true&replicaSet=rs0"];
  await Promise.all(
    queries.map(async (query) =>
      expectRefusal(await run(VERIFY, at(`mongodb://${uninitiated}/${query}`)), refusal, false),
    ),
  );
});

test("a direct connection to a secondary names the primary at once, exit 9", async () => {
  const began = performance.now();
  const error = new RegExp(
    `${pair.secondary} is a secondary of the replica set "rs0", whose primary is ${pair.primary}`,
  );
  const refusal = { exit: 9, code: "mongodb_refused", error, hint: /remove directConnection/ };
  for (const argv of [VERIFY, ["serve"], ["kek", "rotate", "--to-version=2", "--yes"]]) {
    const ran = await run(argv, at(`mongodb://${pair.secondary}/?directConnection=true`));
    expectRefusal(ran, refusal, false);
  }
  expect(performance.now() - began).toBeLessThan(15_000);
});

test("a member that recovers or has no primary is named for what it is", async () => {
  const { onPrimary, onSecondary, primary, secondary } = pair;
  await adminCommand(onSecondary, { replSetMaintenance: 1 });
  const direct = await run(VERIFY, at(`mongodb://${secondary}/?directConnection=true`));
  const error = new RegExp(`${secondary} is starting up, recovering or rolling back, a member of .* is ${primary}`);
  expectRefusal(direct, { exit: 9, code: "mongodb_refused", error, hint: /remove directConnection/ }, false);
  await adminCommand(onSecondary, { replSetMaintenance: 0 });
  await adminCommand(onPrimary, { replSetStepDown: 60, force: true });
  await untilHello(onPrimary, (hello) => hello["secondary"] === true);
  const none = await run(VERIFY, at(`mongodb://${primary}/?replicaSet=rs0`));
  const members = new RegExp(`has no primary: .*${primary} is a secondary`);
  expectRefusal(none, { exit: 9, code: "mongodb_unavailable", error: members, hint: /DATABASE_URI/ }, false);
  const other = await run(VERIFY, at(`mongodb://${primary}/?replicaSet=other`));
  const called = /none of them is a member of a replica set that is called "other"/;
  expectRefusal(other, { exit: 9, code: "mongodb_unavailable", error: called, hint: /replicaSet/ }, false);
});

test("a member that was removed from its set is told apart from one that cannot be reached", async () => {
  const { onPrimary, onSecondary, secondary } = pair;
  await adminCommand(onPrimary, { replSetFreeze: 0 });
  await untilHello(onPrimary, (hello) => hello["isWritablePrimary"] === true);
  const { config } = await adminCommand(onPrimary, { replSetGetConfig: 1 });
  const alone = { ...config, version: config.version + 1, members: [config.members[0]] };
  await adminCommand(onPrimary, { replSetReconfig: alone });
  await untilHello(onSecondary, (hello) => hello["setName"] === undefined);
  const ran = await run(VERIFY, at(`mongodb://${secondary}/?replicaSet=rs0`));
  const error = new RegExp(`${secondary} .* or this member was removed from it`);
  expectRefusal(ran, { exit: 9, code: "mongodb_no_replica_set", error, hint: /rs\.add\(\)/ }, false);
});
