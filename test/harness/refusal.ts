import { expect } from "bun:test";
import { EJSON } from "bson";
import type { Db } from "mongodb";
import { type Ran, run, type TestInstall, type Variables } from "./program.ts";

/** What a refusal looks like from outside, and a proof that it changed nothing. */

export interface Refusal {
  exit: number;
  /** `error.code` with --json. */
  code: string;
  /** What the `error:` line must say: it names the thing. */
  error: RegExp;
  /** What the `hint:` line must say; any hint if left out. */
  hint?: RegExp;
  /** The most it may take. */
  withinMs?: number;
}

/** Every collection of a database, with its options, indexes and documents, byte for byte as extended JSON. */
export async function dump(db: Db): Promise<Record<string, unknown>> {
  const whole: Record<string, unknown> = {};
  for (const { name, ...collection } of await db.listCollections({}, { nameOnly: false }).toArray()) {
    // Each login leaves a trace there, also of a command that changes nothing else.
    if (name === "kek_logins") continue;
    const documents = await db.collection(name).find().sort({ seq: 1, _id: 1 }).toArray();
    const exact = documents.map((document) => EJSON.stringify(document, { relaxed: false }));
    whole[name] = { options: (collection as { options?: unknown }).options, documents: exact };
    (whole[name] as { indexes?: unknown }).indexes = await db.collection(name).indexes();
  }
  return EJSON.serialize(whole) as Record<string, unknown>;
}

/** The audit events appended since `seq`, by name. */
export async function eventsAfter(db: Db, seq: number): Promise<string[]> {
  const entries = await db
    .collection("audit_log")
    .find({ seq: { $gt: seq } })
    .sort({ seq: 1 })
    .toArray();
  return entries.map((entry) => entry["event"] as string);
}

export async function lastSeq(db: Db): Promise<number> {
  const [last] = await db.collection("audit_log").find().sort({ seq: -1 }).limit(1).toArray();
  return Number(last?.["seq"] ?? 0);
}

/**
 * Runs something and verifies that nothing in the database is another than before, but for these audit events.
 * Only for a database that no live process beats in.
 */
export async function changesNothing<T>(db: Db, work: () => Promise<T>, events: string[] = []): Promise<T> {
  const before = await dump(db);
  const seq = await lastSeq(db);
  const result = await work();
  expect(await eventsAfter(db, seq)).toEqual(events);
  const after = await dump(db);
  const log = after["audit_log"] as { documents: string[] } | undefined;
  if (log !== undefined) log.documents.splice(log.documents.length - events.length);
  expect(after).toEqual(before);
  return result;
}

/** One `error:` line, one `hint:` line and no more; with --json one document on stdout, else nothing there. */
export function expectRefusal(ran: Ran, { exit, code, error, hint }: Refusal, json: boolean): void {
  expect({ exit: ran.code, stderr: ran.stderr }).toEqual({ exit, stderr: expect.any(String) });
  const lines = ran.stderr.split("\n");
  expect(lines).toEqual([expect.stringMatching(/^error: \S/), expect.stringMatching(/^hint: \S/), ""]);
  expect(lines[0]).toMatch(error);
  expect(lines[1]).toMatch(hint ?? /./);
  if (!json) {
    expect(ran.stdout).toBe("");
    return;
  }
  expect(Object.keys(ran.json ?? {})).toEqual(["error"]);
  expect(ran.json.error).toMatchObject({ code, exit });
  expect(`error: ${ran.json.error.message}`).toBe(lines[0] as string);
  expect(`hint: ${ran.json.error.hint}`).toBe(lines[1] as string);
}

/** No part of a secret of any length that would be of use: neither whole nor its first or last 12 characters. */
export function expectSilentAbout(ran: Ran, secrets: string[]): void {
  for (const secret of secrets) {
    for (const part of [secret, secret.slice(0, 12), secret.slice(-12)]) {
      expect(ran.stdout).not.toContain(part);
      expect(ran.stderr).not.toContain(part);
    }
  }
}

/** The command, for a person and with --json: refused as told both times, and silent about every key and password. */
export async function refuses(
  install: TestInstall,
  argv: string[],
  variables: Variables,
  refusal: Refusal,
  more: { secrets?: string[]; events?: string[]; db?: Db | undefined } = {},
): Promise<void> {
  const secrets = [...Object.values(install.keks), ...(more.secrets ?? [])];
  const events = more.events ?? [];
  const began = performance.now();
  const [plain, json] = await changesNothing(
    more.db ?? install.db,
    () => Promise.all([run(argv, variables), run([...argv, "--json"], variables)]),
    [...events, ...events],
  );
  const took = performance.now() - began;
  for (const ran of [plain, json]) expectSilentAbout(ran, secrets);
  expectRefusal(plain, refusal, false);
  expectRefusal(json, refusal, true);
  expect(took).toBeLessThan(refusal.withinMs ?? 20_000);
}
