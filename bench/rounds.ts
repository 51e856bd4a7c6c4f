import { readFileSync } from "node:fs";
import { say } from "./stage.ts";

/**
 * Rounds on a machine that is shared: the kernel counts for how long a processor had work and was kept from it by the host (`steal`
 * of proc(5): other guests had it, or a limit on this one). A round with much of that tells of the host, so it is taken again,
 * whatever it came to.
 */

/** Of the processor time that there was work for. */
const MOST_STOLEN = 0.04;
const TRIES = 3;
/** The kernel counts in hundredths of a second. */
const TELLING_TICKS = 50;

/** Surrounds each part of a round whose time counts, so that idle time and preparations around it do not hide what it met. */
export type Timed = <T>(part: () => Promise<T>) => Promise<T>;
/** @returns what tells, later, the share that was stolen since, from 0 to 1. */
export type Meter = () => () => number;

export interface Kept {
  /** The most that was stolen in any timed part. */
  stolen: number;
  tries: number;
}

/**
 * @param work one round, with all sides of what is compared. Each try begins where the one before ended.
 * @param meter another one, for tests.
 * @returns that of the first try whose parts were all quiet, or of the quietest.
 */
export async function quietly<T>(work: (timed: Timed) => Promise<T>, meter: Meter = stolenShare): Promise<T> {
  let best: { result: T; stolen: number } | undefined;
  for (let tries = 1; ; tries += 1) {
    const parts: number[] = [];
    const result = await work(async (part) => {
      const share = meter();
      const ended = await part();
      parts.push(share());
      return ended;
    });
    const stolen = Math.max(0, ...parts);
    if (best === undefined || stolen < best.stolen) best = { result, stolen };
    if (stolen <= MOST_STOLEN || tries === most) {
      kept.push({ stolen: best.stolen, tries });
      return best.result;
    }
    say(`the host kept ${(stolen * 100).toFixed(0)} % of the processor time back: once more`);
  }
}

/** The same for work that is timed as a whole. */
export async function quietlyWhole<T>(work: () => Promise<T>): Promise<T> {
  return await quietly((timed) => timed(work));
}

/** So many rounds with rotations to version 2, back to 1, and so on. @returns what each came to. */
export async function thereAndBack<T>(
  count: number,
  work: (to: 1 | 2, timed: Timed) => Promise<T>,
  meter?: Meter,
): Promise<T[]> {
  const to = turns();
  const all: T[] = [];
  for (let round = 0; round < count; round += 1) all.push(await quietly((timed) => work(to(), timed), meter));
  return all;
}

/** @returns what gives the version that is next: 2, 1, 2, … of a database that begins with 1. */
export function turns(): () => 1 | 2 {
  let at: 1 | 2 = 1;
  return () => {
    at = at === 1 ? 2 : 1;
    return at;
  };
}

/** From now on no round is taken again: where it is of interest whether the benchmark works, not how fast anything is. */
export function takeEachOnce(): void {
  most = 1;
}

/** Of the rounds since this was last asked. */
export function roundsKept(): Kept[] {
  return kept.splice(0);
}

export function stolenShare(): () => number {
  const before = processors();
  return () => {
    const now = processors();
    const wanted = now.wanted - before.wanted;
    // One tick of so few would be more than what counts as much.
    return wanted < TELLING_TICKS ? 0 : (now.stolen - before.stolen) / wanted;
  };
}

// ---------------------------------------------------------------------------------------------------------------------

const kept: Kept[] = [];
let most = TRIES;

/** Ticks since the machine started, of all processors; zeros where the system does not tell. */
function processors(): { stolen: number; wanted: number } {
  let all = "";
  try {
    [all = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  } catch (thrown) {
    if ((thrown as { code?: string }).code !== "ENOENT") throw thrown;
  }
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = all.split(/\s+/).slice(1).map(Number);
  return { stolen, wanted: user + nice + system + irq + softirq + stolen };
}
