import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { say } from "./stage.ts";

/**
 * Rounds on a machine that is shared: its host says how much processor time it gave to others meanwhile (`steal` of proc(5)). A
 * round of which it took much says how busy the neighbours were, so it is taken again, whatever it came to.
 */

/** Of all processor time. */
const MOST_STOLEN = 0.03;
const TRIES = 3;

/**
 * @param work one round, with both sides of what is compared. @param meter for tests.
 * @returns that of the first quiet try, or of the quietest.
 */
export async function quietly<T>(work: () => Promise<T>, meter = stolenShare): Promise<T> {
  const tries: { result: T; stolen: number }[] = [];
  for (;;) {
    const share = meter();
    const result = await work();
    const stolen = share();
    tries.push({ result, stolen });
    if (stolen <= MOST_STOLEN) return result;
    const told = `the host gave ${(stolen * 100).toFixed(0)} % of the processors to others`;
    if (tries.length === TRIES) {
      say(`${told}: the quietest of ${TRIES} tries counts`);
      return tries.reduce((a, b) => (b.stolen < a.stolen ? b : a)).result;
    }
    say(`${told}: once more`);
  }
}

/** So many rounds, one after the other. @returns what each came to. */
export async function inRounds<T>(count: number, work: () => Promise<T>): Promise<T[]> {
  const all: T[] = [];
  for (let round = 0; round < count; round += 1) all.push(await quietly(work));
  return all;
}

/** The same with rotations to version 2, back to 1, and so on, so that each finds what the one before found. */
export async function thereAndBack<T>(count: number, work: (to: 1 | 2) => Promise<T>): Promise<T[]> {
  const to = turns();
  return await inRounds(count, () => work(to()));
}

/** @returns what gives the version that is next: 2, 1, 2, … of a database that begins with 1. */
export function turns(): () => 1 | 2 {
  let at: 1 | 2 = 1;
  return () => {
    at = at === 1 ? 2 : 1;
    return at;
  };
}

/** @returns what tells the share of all processor time that the host has given to others since now, from 0 to 1. */
export function stolenShare(): () => number {
  const [since, began] = [stolenSeconds(), performance.now()];
  return () => ((stolenSeconds() - since) * 1000) / (performance.now() - began) / cpus().length;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Since the machine started, of all its processors together; 0 where the system does not tell. */
function stolenSeconds(): number {
  const TICKS_A_SECOND = 100;
  const STEAL = 8;
  try {
    const [all = ""] = readFileSync("/proc/stat", "utf8").split("\n");
    return Number(all.split(/\s+/)[STEAL] ?? 0) / TICKS_A_SECOND;
  } catch (thrown) {
    if ((thrown as { code?: string }).code === "ENOENT") return 0;
    throw thrown;
  }
}
