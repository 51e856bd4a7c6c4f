import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseSecrets } from "../../src/config/secrets_file.ts";
import { type Armed, inLanes, take } from "../harness/crash.ts";
import {
  crashInstall,
  payloadsOf,
  settledAt,
  TIMES,
  takeAll,
  untilWell,
  validatorsOf,
} from "../harness/crash_install.ts";
import { countRight, library, seed } from "../harness/library.ts";
import { run, start, stop, type TestInstall, testInstall } from "../harness/program.ts";
import { events, versionStates } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** `kek remove`, and the first start on a fresh database, killed between any two of their writes and again in the recovery. */

/** Most of it is waiting for leases and for transactions of the dead; a busy machine adds to that. */
setDefaultTimeout(600_000);

const SCRATCH = scratchDirectory();
const ROTATE = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"];
const KEK = "CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V";

/** The operator's secrets file, in a directory of its own: what a run that was killed leaves beside it shows there. */
function secretsFile(install: TestInstall, versions: number[]) {
  const path = join(SCRATCH, `${install.name}.env`);
  const lines = versions.map((version) => `${KEK}${version}=${install.keks[version]}`);
  writeFileSync(path, `# keys of the tests\n${lines.join("\n")}\nOTHER="kept as it is"\n`, { mode: 0o600 });
  return path;
}

const REMOVE = ["kek", "remove", "--version=1", "--yes", "--json"];
const REMOVED: [Armed, Armed][] = [
  ["remove.searched", "remove.unreachable"],
  ["remove.unreachable", "remove.marking"],
  ["remove.marked", "secrets.created"],
  ["secrets.written", "secrets.written"],
  ["audit.committed", "secrets.renamed"],
];

test("kek remove of a retired version: destroyed, its line gone, the file 0600 and alone", async () => {
  const cases = REMOVED.map(([at, again]): [string, [Armed, Armed]] => [`${at}, ${again}`, [at, again]]);
  const wrong = await inLanes(Object.fromEntries(cases), async ([at, again]) => {
    let path = "";
    const install = await crashInstall((base) => {
      path = secretsFile(base, [1, 2]);
      return { [`${KEK}1`]: "", [`${KEK}2`]: "", CERTAUTOPILOT_SECRETS_FILE: path };
    });
    const payloads = await payloadsOf(install);
    await takeAll(install, [{ words: ROTATE }]);
    const validators = await validatorsOf(install);
    await takeAll(install, [{ words: REMOVE, dies: at }, { words: REMOVE, dies: again }, { words: REMOVE }]);
    const kept = { [`${KEK}2`]: install.keks[2], OTHER: "kept as it is" };
    expect(parseSecrets(readFileSync(path, "utf8"), path)).toEqual(kept as Record<string, string>);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(SCRATCH).filter((name) => name.includes(install.name))).toEqual([`${install.name}.env`]);
    expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
    expect(await events(install, "version.destroyed")).toEqual([{ version: 1 }]);
    expect(await validatorsOf(install)).toBe(validators);
    await settledAt(install, 2, payloads);
    await install.member.close();
  });
  expect(wrong).toEqual({});
});

const KEPT: [Armed, Armed][] = [
  ["copy.created", "copy.written"],
  ["copy.named", "copy.written"],
  ["secrets.created", "copy.named"],
  ["secrets.written", "secrets.renamed"],
];

test("kek remove --keep-copy: at every moment the line is in the secrets file, or a complete copy beside it", async () => {
  const cases = KEPT.map(([at, again]): [string, [Armed, Armed]] => [`${at}, ${again}`, [at, again]]);
  const wrong = await inLanes(Object.fromEntries(cases), async ([at, again]) => {
    let path = "";
    const install = await crashInstall((base) => {
      path = secretsFile(base, [1, 2]);
      return { [`${KEK}1`]: "", [`${KEK}2`]: "", CERTAUTOPILOT_SECRETS_FILE: path };
    });
    const payloads = await payloadsOf(install);
    const [copy, line] = [`${path}.kek-v1-destroyed`, `${KEK}1=${install.keks[1]}\n`];
    const words = [...REMOVE, "--keep-copy"];
    const kept = () => {
      const text = readFileSync(path, "utf8");
      const there = existsSync(copy);
      if (there) expect([readFileSync(copy, "utf8"), statSync(copy).mode & 0o777]).toEqual([line, 0o600]);
      expect(text.includes(line) || there).toBe(true);
    };
    await takeAll(install, [{ words: ROTATE }]);
    for (const dies of [at, again]) {
      await takeAll(install, [{ words, dies }]);
      kept();
    }
    const removed = await take({ words }, install.operator);
    expect(removed.json).toMatchObject({ version: 1, outcome: "destroyed", copy });
    kept();
    expect(readFileSync(path, "utf8")).not.toContain(line);
    const left = readdirSync(SCRATCH).filter((name) => name.includes(install.name));
    expect(left.sort()).toEqual([`${install.name}.env`, `${install.name}.env.kek-v1-destroyed`]);
    await settledAt(install, 2, payloads);
    await install.member.close();
  });
  expect(wrong).toEqual({});
});

test("rotate --remove-old killed when it was complete: the same command says what is left, and that does it", async () => {
  let path = "";
  const install = await crashInstall((base) => {
    path = secretsFile(base, [1, 2]);
    return { [`${KEK}1`]: "", [`${KEK}2`]: "", CERTAUTOPILOT_SECRETS_FILE: path };
  });
  const payloads = await payloadsOf(install);
  const words = [...ROTATE, "--remove-old"];
  await takeAll(install, [{ words, dies: "remove.marked" }]);
  const refused = await take({ words, exits: 3 }, install.operator);
  expect(refused.json.error.hint).toContain("certautopilot kek remove --version=1");
  expect(readFileSync(path, "utf8")).toContain(`${KEK}1=`);
  await takeAll(install, [{ words: REMOVE }]);
  expect(readFileSync(path, "utf8")).not.toContain(`${KEK}1=`);
  await settledAt(install, 2, payloads);
  await install.member.close();
});

test("kek remove of a staged version: forgotten once", async () => {
  const install = await crashInstall();
  const holder = await library(install, [1, 2, 3], 2, "holder", TIMES);
  await holder.close();
  const FORGET = ["kek", "remove", "--version=3", "--yes", "--json"];
  const UNKNOWN = 3;
  const payloads = await payloadsOf(install);
  await takeAll(install, [
    { words: FORGET, dies: "forget.deleted" },
    { words: FORGET, dies: "forget.done" },
    { words: FORGET, exits: UNKNOWN },
    { words: ROTATE },
  ]);
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  expect(await events(install, "version.forgotten")).toEqual([{ version: 3 }]);
  await settledAt(install, 2, payloads);
  await install.member.close();
});

test("kek field add and remove: registered once and unregistered once, with an event each", async () => {
  const install = await crashInstall();
  const ADD = ["kek", "field", "add", "later:value", "--json"];
  const DROP = ["kek", "field", "remove", "later:value", "--yes", "--json"];
  const listed = () => install.db.collection<{ _id: string }>("kek_fields").countDocuments({ _id: "later:value" });
  await takeAll(install, [
    { words: ADD, dies: "field.prepared" },
    { words: ADD, dies: "audit.appended" },
    { words: ADD },
  ]);
  expect(await listed()).toBe(1);
  await takeAll(install, [
    { words: DROP, dies: "field.unindexed" },
    { words: DROP, dies: "audit.appended" },
    { words: DROP },
  ]);
  expect(await listed()).toBe(0);
  for (const event of ["field.added", "field.removed"])
    expect(await events(install, event)).toEqual([{ field: "later:value" }]);
  await install.member.close();
});

/** A start on an empty database that dies, one that dies again, and one that is left alone. */
const FIRST_STARTS: [Armed, Armed][] = [
  ["collections.ensured", "lock.inserted"],
  ["lock.written", "version.inserted"],
  ["stage.done", "stage.done"],
  ["first.activating", "first.activated"],
  ["first.activated", "collections.ensured"],
];

test("the first start on a fresh database: one lock, one active version, every event once", async () => {
  const cases = FIRST_STARTS.map(([at, again]): [string, [Armed, Armed]] => [`${at}, ${again}`, [at, again]]);
  const wrong = await inLanes(Object.fromEntries(cases), async ([at, again]) => {
    const install = await testInstall(TIMES);
    await install.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
    const variables = install.variables([1, 2], 1, { CERTAUTOPILOT_INSTANCE_NAME: "first" });
    await take({ words: ["serve"], dies: at }, variables);
    await take({ words: ["serve"], dies: again }, variables);
    const serving = start(["serve"], variables);
    await serving.says(" is ready on ", 60_000);
    expect(await install.db.collection("kek_install").countDocuments()).toBe(1);
    expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
    for (const event of ["install.locked", "version.activated"]) expect(await events(install, event)).toHaveLength(1);
    const staged = (await events(install, "version.staged")).map((data) => data["version"]);
    expect(staged.sort()).toEqual([1, 2]);
    const service = await library(install, [1, 2], 1, "service", TIMES);
    await seed(service, install, 3);
    expect(await countRight(service, install)).toBe(3);
    await service.close();
    const audit = await run(["audit", "verify", "--json"], variables);
    expect(audit.json).toMatchObject({ whole: true, faults: [] });
    // Who was killed stays on the roster until it is evicted, or a day is over.
    await untilWell(variables, new RegExp(`^first \\(.* pid (?!${serving.pid}\\b)`));
    await stop(serving);
  });
  expect(wrong).toEqual({});
});
