import type { CrashPoint } from "../../src/errors/crash_point.ts";
import { type Ran, type Running, start, type Variables } from "./program.ts";

/**
 * Commands that die at a crash point (src/errors/crash_point.ts), by the build that has them, and the plain ones that recover, by the
 * released program.
 */

/** A point, or the n-th time that it is passed. */
export type Armed = CrashPoint | `${CrashPoint}:${number}`;

/** One command: it dies at a point, or it ends by itself with an exit code (0 if nothing is said). */
export interface Step {
  words: string[];
  dies?: Armed;
  exits?: number;
}

/**
 * Runs a step; once more, as its hint says, when a busy machine has cost it its lease.
 * @throws Error when it ends otherwise: at a point that was never reached, it ends by itself.
 */
export async function take(step: Step, variables: Variables, tries = 4): Promise<Ran> {
  const { words, dies, exits = 0 } = step;
  const running = dies === undefined ? start(words, variables) : startArmed(words, variables, dies);
  // A service that passes no such point continues for ever.
  const timer = setTimeout(() => running.kill("SIGTERM"), LIMIT_MS);
  const ran = await running.exited;
  clearTimeout(timer);
  const as = dies === undefined ? ran.code === exits : ran.code === null && ran.signal === "SIGKILL";
  if (as) return ran;
  if (tries > 1 && ran.stderr.includes("error: this coordinator stops: its lease ran out"))
    return await take(step, variables, tries - 1);
  const wanted = dies === undefined ? `exit ${exits}` : `SIGKILL at ${dies}`;
  throw new Error(`${words.join(" ")}: wanted ${wanted}, ended with ${ran.signal ?? ran.code}: ${ran.stderr.trim()}`);
}

/** Starts a command that dies at this point. */
export function startArmed(words: string[], variables: Variables, dies: Armed): Running {
  return start(words, { ...variables, CERTAUTOPILOT_TEST_CRASH_AT: dies }, "crash");
}

const LIMIT_MS = 90_000;

/** Works on all of these, so many at once. @returns what went wrong, by name; nothing when all is well. */
export async function inLanes<T>(
  cases: Record<string, T>,
  work: (each: T, name: string) => Promise<void>,
  width = 4,
): Promise<Record<string, string>> {
  const wrong: Record<string, string> = {};
  const left = Object.entries(cases);
  const worker = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [name, each] = next;
      await work(each, name).catch((thrown: Error) => {
        wrong[name] = thrown.message;
      });
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return wrong;
}
