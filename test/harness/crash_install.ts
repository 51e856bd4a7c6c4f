import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { EJSON } from "bson";
import type { Document } from "mongodb";
import type { FieldEncryption } from "../../src/index.ts";
import { type Step, take } from "./crash.ts";
import { countRight, library, seed } from "./library.ts";
import { FAST, run, type TestInstall, testInstall, until, type Variables } from "./program.ts";
import { events, newestRotation, versionStates } from "./schedule.ts";

/** An install for schedules of crashes: two collections, one with rules of its own, and a process of the fleet that follows. */

export const COUNT = 6;
export const COLLECTIONS = ["secrets", "notes"];
/** A rule of the collection's owner, that no fence may touch. */
const RULES = { validator: { owner: { $not: { $type: "int" } } } };

/** A little patience, so that a busy machine costs no coordinator its lease; a successor waits that much longer. */
export const TIMES = { ...FAST, leaseMs: 4000, evictionMs: 8000 };

export interface CrashInstall extends TestInstall {
  /** A member of the fleet in this process; it holds versions 1 and 2. */
  member: FieldEncryption;
  operator: Variables;
}

/** Version 1 active, 2 staged, COUNT records in each collection. @param over more variables for the operator's commands. */
export async function crashInstall(over: (install: TestInstall) => Variables = () => ({})): Promise<CrashInstall> {
  const install = await testInstall(TIMES);
  // A process that is killed in a transaction leaves it open for MongoDB's 60 s.
  await install.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
  await install.db.createCollection("secrets", RULES);
  await install.db.createCollection("notes");
  const seeder = await library(install, [1, 2], 1, "seeder", TIMES);
  for (const name of COLLECTIONS) await seed(seeder, install, COUNT, name);
  await seeder.close();
  const member = await library(install, [1, 2], 2, "member", TIMES);
  return { ...install, member, operator: install.variables([1, 2], 2, over(install)) };
}

/** Everything of the records that a rewrap must not change. */
export async function payloadsOf({ db }: TestInstall): Promise<string> {
  const found: unknown[] = [];
  for (const name of COLLECTIONS) {
    const records = await db.collection<Document>(name).find().sort({ _id: 1 }).toArray();
    found.push(records.map(({ _id, value }) => [_id, value.nonce, value.ciphertext]));
  }
  return EJSON.stringify(found);
}

export async function validatorsOf({ db }: TestInstall): Promise<string> {
  const listed = await db.listCollections({ name: { $in: COLLECTIONS } }).toArray();
  const settings = listed.map((entry) => {
    const { validator = {}, validationLevel = "strict", validationAction = "error" } = (entry as Document)["options"];
    return [entry.name, { validator, validationLevel, validationAction }];
  });
  return EJSON.stringify(settings.sort(), { relaxed: false });
}

/** Takes every step, and leaves the install as it then is. */
export async function takeAll(install: CrashInstall, steps: Step[]): Promise<void> {
  for (const step of steps) await take(step, install.operator);
}

/** All records at one version, with its key alone; nothing open, nothing lost, nothing said twice; the fleet is well. */
export async function settledAt(install: CrashInstall, version: number, payloads: string): Promise<void> {
  expect(await newestRotation(install)).toMatchObject({ to: version, state: "completed", lease: { owner: null } });
  expect((await newestRotation(install))["open"]).toBeUndefined();
  expect((await versionStates(install))[version]).toBe("active");
  const completed = await install.db.collection("kek_rotations").countDocuments({ state: "completed" });
  expect(await events(install, "rotation.completed")).toHaveLength(completed);
  expect(await payloadsOf(install)).toBe(payloads);
  const reader = await library(install, [version], version, "reader", TIMES);
  for (const name of COLLECTIONS) expect(await countRight(reader, install, name)).toBe(COUNT);
  await reader.close();
  const audit = await run(["audit", "verify", "--json"], install.operator);
  expect(audit.json).toMatchObject({ whole: true, faults: [] });
  await untilWell({ ...install.operator, CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(version) });
}

/** `kek verify` finds nothing, but that the member declares version 2 throughout; on a busy machine, once it has beaten. */
export async function untilWell(variables: Variables, expected = /declares current version 2/): Promise<void> {
  let problems: string[] = [];
  const well = async () => {
    const { json } = await run(["kek", "verify", "--json"], variables);
    problems = json.problems.map(({ message }: { message: string }) => message);
    return problems.every((message) => expected.test(message));
  };
  await until("kek verify is content", well).catch((thrown: Error) => {
    throw new Error(`${thrown.message}: ${problems.join("; ")}`);
  });
}

/** Each line of the audit file is one entry of the log; what may be missing there is what was committed last before a crash. */
export async function mirrored({ db }: TestInstall, file: string): Promise<void> {
  const macs = new Set((await db.collection("audit_log").find().toArray()).map((entry) => entry["mac"]));
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  const told = lines.map((line) => JSON.parse(line).mac);
  expect(new Set(told).size).toBe(told.length);
  expect(told.filter((mac) => !macs.has(mac))).toEqual([]);
}
