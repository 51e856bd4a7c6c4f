import { expect, test } from "bun:test";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { hsmInstall, made } from "../harness/hsm_install.ts";
import { countRight, library, seed, versionsOf } from "../harness/library.ts";
import { run, start, stop, testInstall, until } from "../harness/program.ts";
import { eventsAfter, expectSilentAbout, lastSeq } from "../harness/refusal.ts";
import { CALM, kek, movedTo, rotating, SLOWLY, seededInstall, serveAll } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { bytesOf, ODD, PASSPHRASE, passphraseFile, plainHashes, seedOdd } from "../harness/transfer.ts";

/** The procedure of docs/change-provider.md, whole: env → SoftHSM → env. */

const SCRATCH = scratchDirectory();
const READER = join(import.meta.dir, "../independent/archive_reader.py");
const PYTHON = process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3";
const COUNT = 700;
const PATHS = ["key.pem", "token"];

test("env → SoftHSM → env: every plaintext and every other byte the same, the old install untouched and still readable", async () => {
  const old = await testInstall(CALM);
  const secrets = [PASSPHRASE, ...Object.values(old.keks)];
  const serving = await old.serve("old", [1], 1);
  const seeder = await library(old, [1], 1, "seeder", CALM);
  await seed(seeder, old, COUNT);
  await seedOdd(seeder, old);
  await old.db.collection("secrets").createIndex({ owner: 1 }, { name: "by_owner" });
  const plain = await plainHashes(seeder, old.db, ODD, PATHS);
  await seeder.close();
  const before = await bytesOf(old.db);
  const seq = await lastSeq(old.db);

  // Exported while the service runs, to a passphrase.
  const file = join(SCRATCH, "secrets.age");
  const passphrase = `--passphrase-file=${passphraseFile(SCRATCH)}`;
  const out = await run(["export", `--out=${file}`, passphrase, "--json"], old.variables([1], 1));
  expect({ code: out.code, stderr: out.stderr }).toEqual({
    code: 0,
    stderr: expect.stringMatching(/^warning: 1 process is in the fleet: old /),
  });
  expect(out.json).toMatchObject({
    exported: true,
    records: COUNT + 15,
    failed: 0,
    changes: { changed: 0, added: 0, removed: 0 },
    indexes: [{ collection: "secrets", names: ["by_owner"] }],
  });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(await eventsAfter(old.db, seq)).toEqual(["secrets.export_started", "secrets.exported"]);
  expectSilentAbout(out, secrets);

  // A fresh database, installed with the other provider; imported; verified.
  const hsm = await hsmInstall(CALM);
  await made(hsm, 1);
  const fresh = await hsm.serve("new", 1);
  const brought = await run(["import", `--in=${file}`, passphrase, "--json"], hsm.variables(1));
  expect({ code: brought.code, stderr: brought.stderr }).toEqual({
    code: 0,
    stderr: expect.not.stringMatching(/error|warning/),
  });
  expect(brought.json).toMatchObject({ imported: true, there_before: 0, archive_id: out.json.archive_id });
  for (const what of ["records", "secrets", "collections", "fields"])
    expect(brought.json[what]).toEqual(out.json[what]);
  const service = await hsm.service(1);
  expect(await service.ask({ right: true })).toEqual({ right: COUNT });
  await service.leave();
  // What it calls no envelope, nulls and empty text, was none before.
  const verified = [old.variables([1], 1), hsm.variables(1)].map((each) =>
    run(["kek", "verify", "--records", "--json"], each),
  );
  const [inOld, inNew] = (await Promise.all(verified)).map(({ json: { records, failed, bad } }) => ({
    records,
    failed,
    bad,
  }));
  expect(inNew).toEqual(inOld);
  expect(inNew).toMatchObject({ records: COUNT + 12 + 10, failed: 6 });
  const [named] = (await hsm.db.collection("audit_log").find({ event: "secrets.imported" }).toArray()) as never[];
  expect(named).toMatchObject({ data: { archive_id: out.json.archive_id, fields: out.json.fields } });
  expect((await run(["import", `--in=${file}`, passphrase], hsm.variables(1))).stderr).toContain("imported already");

  // And back, to an age recipient; age itself opens it, and a reader that shares no code with the product finds it whole.
  const identity = join(SCRATCH, "identity.txt");
  execFileSync("age-keygen", ["-o", identity], { stdio: "pipe" });
  const [recipient] = /age1\w+/.exec(readFileSync(identity, "utf8")) ?? [];
  const back = join(SCRATCH, "back.age");
  const outAgain = await run(["export", `--out=${back}`, `--recipient=${recipient}`, "--json"], hsm.variables(1));
  expect(outAgain).toMatchObject({ code: 0, json: { records: COUNT + 15, failed: 0 } });
  const opened = execFileSync("age", ["-d", "-i", identity, back], { maxBuffer: 64 * 1024 * 1024 });
  const read = spawnSync(PYTHON, [READER], { input: opened, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
  expect(read.stderr).toBe("");
  expect(JSON.parse(read.stdout)).toMatchObject({
    install_id: outAgain.json.install_id,
    records: { secrets: COUNT, [ODD]: 15 },
    secrets: { "secrets:value": COUNT, [`${ODD}:token`]: 6, [`${ODD}:key.pem`]: 10 },
  });
  const last = await testInstall(CALM);
  const lastServing = await last.serve("last", [3], 3);
  const returned = await run(
    ["import", `--in=${back}`, `--identity-file=${identity}`, "--json"],
    last.variables([3], 3),
  );
  expect({ code: returned.code, stderr: returned.stderr }).toEqual({
    code: 0,
    stderr: expect.not.stringMatching(/error|warning/),
  });
  const reader = await library(last, [3], 3, "reader", CALM);
  expect(await countRight(reader, last)).toBe(COUNT);
  expect(await plainHashes(reader, last.db, ODD, PATHS)).toEqual(plain);
  await reader.close();

  // Retired, and rolled back: the old install is as it was, and serves.
  await stop(fresh, lastServing, serving);
  expect(await bytesOf(old.db)).toEqual(before);
  const again = await old.serve("old again", [1], 1);
  const rolledBack = await library(old, [1], 1, "rolled back", CALM);
  expect(await countRight(rolledBack, old)).toBe(COUNT);
  expect(await plainHashes(rolledBack, old.db, ODD, PATHS)).toEqual(plain);
  await rolledBack.close();
  for (const variables of [old.variables([1], 1), hsm.variables(1), last.variables([3], 3)])
    expect((await run(["audit", "verify", "--json"], variables)).json).toMatchObject({ whole: true });
  await stop(again);
}, 120_000);

test("an export from a rotation that was cancelled midway, under Bun, and an import that was interrupted, while a rotation runs, under Deno", async () => {
  const MANY = 6000;
  const old = await seededInstall(MANY, CALM);
  const fleet = await serveAll(old, "a");
  const slow = rotating(old, "--to-version=2", ...SLOWLY);
  await movedTo(old, 2, 20);
  expect((await kek(old, "rotate", "--cancel")).code).toBe(0);
  await slow.exited;
  const file = join(SCRATCH, "midway.age");
  const identity = join(SCRATCH, "midway.txt");
  execFileSync("age-keygen", ["-o", identity], { stdio: "pipe" });
  const [recipient] = /age1\w+/.exec(readFileSync(identity, "utf8")) ?? [];
  const out = await run(
    ["export", `--out=${file}`, `--recipient=${recipient}`, "--json"],
    old.variables([1, 2], 2),
    "bun",
  );
  expect({ code: out.code, json: out.json }).toMatchObject({ code: 0, json: { secrets: MANY } });

  const fresh = await testInstall(CALM);
  const holders = [await fresh.serve("b", [1], 1)];
  await stop(...holders);
  const follower = await fresh.serve("c", [1, 2], 2);
  const words = ["import", `--in=${file}`, `--identity-file=${identity}`, "--json"];
  const interrupted = start(words, fresh.variables([1, 2], 2));
  await until("the first records are there", async () => (await fresh.db.collection("secrets").countDocuments()) > 0);
  interrupted.kill("SIGINT");
  expect((await interrupted.exited).code).toBe(5);
  const importing = start(words, fresh.variables([1, 2], 2), "deno");
  const roster = fresh.db.collection("process_heartbeats");
  await until("the import is a process of the fleet", async () => (await roster.countDocuments()) === 2);
  const rotated = await run(
    ["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"],
    fresh.variables([1, 2], 2),
  );
  expect({ code: rotated.code, json: rotated.json }).toMatchObject({ code: 0, json: { state: "completed" } });
  const brought = await importing.exited;
  expect({ code: brought.code, json: brought.json }).toMatchObject({
    code: 0,
    json: { imported: true, secrets: MANY },
  });
  expect(await versionsOf(fresh)).toEqual({ "2": MANY });
  const reader = await library(fresh, [2], 2, "reader", CALM);
  expect(await countRight(reader, fresh)).toBe(MANY);
  await reader.close();
  await stop(follower, ...fleet);
}, 120_000);
