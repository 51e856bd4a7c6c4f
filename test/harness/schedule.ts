import { expect } from "bun:test";
import { EJSON } from "bson";
import type { Document } from "mongodb";
import { countRight, library, seed, versionsOf } from "./library.ts";
import { FAST, type Ran, type Running, run, start, type TestInstall, testInstall, until } from "./program.ts";

/** What the schedules of members, coordinators and cancellations share. */

/** Whatever has a database: an install whose keys are anywhere. */
type Holder = Pick<TestInstall, "db">;

/** Times for schedules in which nobody is to run out of time, however busy the machine is. */
export const CALM = { ...FAST, leaseMs: 10_000, evictionMs: 20_000 };

/** So slow that a test can come in between. */
export const SLOWLY = ["--max-rate=20", "--batch-size=5"];

/** An install with `count` secrets under v1; the process that wrote them has left the fleet. @param at see `freshDatabase`. */
export async function seededInstall(
  count: number,
  times: Partial<typeof FAST> = {},
  at?: string,
): Promise<TestInstall> {
  const install = await testInstall({ ...FAST, ...times }, at);
  // A process that is killed in a transaction leaves it open for MongoDB's 60 s, and the test's database cannot be
  // dropped before that.
  await install.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
  const seeder = await library(install, [1, 2], 1, "seeder");
  await seed(seeder, install, count);
  await seeder.close();
  return install;
}

/** `serve` processes that hold v1 and v2 and declare v2. */
export async function serveAll<const N extends string[]>(
  install: TestInstall,
  ...names: N
): Promise<{ [K in keyof N]: Running }> {
  return (await Promise.all(names.map((name) => install.serve(name, [1, 2], 2)))) as { [K in keyof N]: Running };
}

/** The words of a command; a rotation, and the question whether one could start, is without a verified backup, unless the test asks for one. */
export function withoutBackupCheck(words: string[]): string[] {
  const asks = words[0] === "rotate" || (words[0] === "verify" && words.some((word) => word.startsWith("--target=")));
  const skips = asks && !words.some((word) => /^--(cancel|require-backup|no-backup-check)$/.test(word));
  return skips ? [...words, "--no-backup-check"] : words;
}

/** `kek rotate` in the operator's shell, under way when this returns. */
export function rotating(install: TestInstall, ...flags: string[]): Running {
  return start(["kek", ...withoutBackupCheck(["rotate", "--json", ...flags])], install.variables([1, 2], 2));
}

export async function kek(install: TestInstall, ...argv: string[]): Promise<Ran> {
  return await run(["kek", ...withoutBackupCheck(argv), "--json"], install.variables([1, 2], 2));
}

/** The rotation that is open, or that ended last. */
export async function newestRotation(install: Holder): Promise<Document> {
  return (await install.db.collection("kek_rotations").findOne({}, { sort: { epoch: -1 } })) as Document;
}

/** The dead need not be waited for: whoever comes next may lead the open rotation now. */
export async function endLease(install: Holder): Promise<void> {
  await install.db.collection("kek_rotations").updateOne({ open: true }, { $set: { "lease.expires_at": new Date(0) } });
}

export async function versionStates(install: Holder): Promise<Record<string, string>> {
  const versions = await install.db.collection("kek_versions").find().sort({ _id: 1 }).toArray();
  return Object.fromEntries(versions.map((doc) => [String(doc._id), doc["state"]]));
}

/** The data of every audit event of one kind, oldest first. */
export async function events(install: Holder, event: string): Promise<Document[]> {
  const found = await install.db.collection("audit_log").find({ event }).sort({ seq: 1 }).toArray();
  return found.map((entry) => entry["data"]);
}

/** Instance names of the evicted, in order. */
export async function evicted(install: Holder): Promise<string[]> {
  return (await events(install, "process.evicted")).map((data) => String(data["name"]).split(" ")[0] ?? "");
}

export async function heartbeat(install: Holder, name: string): Promise<Document | null> {
  return await install.db.collection("process_heartbeats").findOne({ instance_name: name });
}

/** Waits until at least `count` of the seeded envelopes are at a version. */
export async function movedTo(install: Holder, version: number, count: number): Promise<void> {
  await until(`${count} records at v${version}`, async () => ((await versionsOf(install))[version] ?? 0) >= count);
}

/** wrapped_dek by _id, of the records at one version: a record that is rewrapped twice shows here. */
export async function wrapsAt(install: Holder, version: number): Promise<Map<unknown, string>> {
  const records = await install.db.collection("secrets").find({ "value.kek_version": version }).toArray();
  return new Map(records.map((record) => [record._id, record["value"].wrapped_dek.toString("base64")]));
}

/** What must hold at the end of every schedule: these keys alone open all records, and the audit chain is whole. */
export async function proveAll(install: TestInstall, versions: number[], count: number): Promise<void> {
  const current = versions[versions.length - 1] as number;
  const reader = await library(install, versions, current, `reader-${versions.join("-")}`);
  try {
    expect(await countRight(reader, install)).toBe(count);
  } finally {
    await reader.close();
  }
  await proveAudit(install);
}

/** The audit chain is whole. */
export async function proveAudit(install: TestInstall): Promise<void> {
  const audit = await run(["audit", "verify", "--json"], install.variables([1, 2], 2));
  expect(audit.json).toMatchObject({ whole: true, faults: [] });
}

/** Everything that a coordinator could change, as text: to show that one changed nothing. */
export async function frozenState(install: Holder): Promise<string> {
  const parts: unknown[] = [];
  for (const name of ["secrets", "kek_rotations", "kek_versions", "kek_fields", "audit_log"]) {
    parts.push(name, await install.db.collection(name).find().sort({ _id: 1 }).toArray());
  }
  parts.push(
    (await install.db.listCollections().toArray()).map(({ name, options }: Document) => [name, options]).sort(),
  );
  return EJSON.stringify(parts, { relaxed: false });
}
