import { expect } from "bun:test";
import { randomUUID } from "node:crypto";
import type { Document } from "mongodb";
import { type Running, run, stop, type TestInstall } from "./program.ts";
import { eventsAfter, lastSeq } from "./refusal.ts";
import { versionStates } from "./schedule.ts";

/** What the operator learns of a process that is not ready: from verify, and from a rotation that does not start. */

export interface Unready {
  name: string;
  /** What is wrong with it. */
  words: RegExp;
  /** What to do about it. */
  hint: RegExp;
}

interface Problem {
  message: string;
  hint: string;
}

const VERIFY = ["kek", "verify", "--target=2", "--no-backup-check"];
const ROTATE = ["kek", "rotate", "--to-version=2", "--no-backup-check"];

/** Named by verify, with the next step, refused by rotate, both with exit 3; nobody else is blamed, nothing starts. */
export async function expectUnready(install: TestInstall, unready: Unready[]): Promise<void> {
  const operator = install.variables([1, 2], 2);
  const seq = await lastSeq(install.db);
  const states = await versionStates(install);
  const [verified, verifiedJson] = await Promise.all([run(VERIFY, operator), run([...VERIFY, "--json"], operator)]);
  expect([verified.code, verifiedJson.code]).toEqual([3, 3]);
  expect(verifiedJson.json.ready).toBe(false);
  const problems = problemsIn(verified.stdout);
  expect(problems.map(ageless)).toEqual(told(verifiedJson.json.problems).map(ageless));
  expectNamed(problems, unready);

  const [refused, refusedJson] = await Promise.all([run(ROTATE, operator), run([...ROTATE, "--json"], operator)]);
  expect([refused.code, refusedJson.code, refused.stdout]).toEqual([3, 3, ""]);
  expect(refused.stderr).toMatch(/(^|\n)error: [^\n]+\nhint: [^\n]+\n$/);
  for (const { name, words } of unready) {
    expect(refused.stderr).toContain(name);
    expect(refused.stderr).toMatch(words);
  }
  expect(unready.some(({ hint }) => hint.test(refused.stderr.split("\nhint: ")[1] ?? ""))).toBe(true);
  expectNamed(told(refusedJson.json.error.problems), unready);

  expect(await eventsAfter(install.db, seq)).toEqual(["rotation.refused", "rotation.refused"]);
  expect(await install.db.collection("kek_rotations").countDocuments()).toBe(0);
  expect(await versionStates(install)).toEqual(states);
}

/** A process that this program did not start: the heartbeat of `like`, with these fields changed. */
export async function forge(install: TestInstall, like: string, over: Document): Promise<string> {
  const heartbeats = install.db.collection<Document>("process_heartbeats");
  const model = await heartbeats.findOne({ instance_name: like });
  const _id = randomUUID();
  await heartbeats.insertOne({ ...model, ...over, _id: _id as never });
  return _id;
}

/** Keeps a forged heartbeat fresh until the work is done, and takes it away. */
export async function beating<T>(install: TestInstall, id: string, work: () => Promise<T>): Promise<T> {
  const heartbeats = install.db.collection<{ _id: string; updated_at: Date }>("process_heartbeats");
  const beat = () => heartbeats.updateOne({ _id: id }, { $currentDate: { updated_at: true } });
  await beat();
  const timer = setInterval(beat, 100);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await heartbeats.deleteOne({ _id: id });
  }
}

/** Does the work while these processes are in the fleet, and stops them whatever comes of it. */
export async function among<T>(
  processes: Promise<Running>[],
  work: (...running: Running[]) => Promise<T>,
): Promise<Running[]> {
  const running = await Promise.all(processes);
  try {
    await work(...running);
  } finally {
    await stop(...running);
  }
  return running;
}

// ---------------------------------------------------------------------------------------------------------------------

function problemsIn(text: string): Problem[] {
  const found = text.matchAll(/^problem: (.*)\n +hint: (.*)$/gm);
  return [...found].map(([, message, hint]) => ({ message: message as string, hint: hint as string }));
}

function told(problems: Problem[]): Problem[] {
  return problems.map(({ message, hint }) => ({ message, hint }));
}

/** Two looks a moment apart see other ages. */
function ageless({ message, hint }: Problem): Problem {
  return { message: message.replace(/last heartbeat was [\d.]+ \w+ ago/, "last heartbeat was … ago"), hint };
}

function expectNamed(problems: Problem[], unready: Unready[]): void {
  for (const { name, words, hint } of unready) {
    const mine = problems.filter(({ message }) => message.startsWith(`${name} (`) && words.test(message));
    expect(mine.map((problem) => problem.hint)).toEqual([expect.stringMatching(hint)]);
  }
  const names = unready.map(({ name }) => name);
  expect(problems.filter(({ message }) => !names.includes(message.split(" ")[0] ?? ""))).toEqual([]);
}
