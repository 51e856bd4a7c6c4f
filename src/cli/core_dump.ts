import { writeFileSync } from "node:fs";

/**
 * Keeps memory out of core dumps, for it holds keys and PINs: with an empty filter the kernel writes a core file without the
 * contents of any mapping (core(5), /proc/pid/coredump_filter). Children inherit it.
 * @returns whether it could be done: elsewhere than on Linux, and where /proc is read-only, it cannot.
 */
export function keepOutOfCoreDumps(): boolean {
  try {
    writeFileSync("/proc/self/coredump_filter", "0");
    return true;
  } catch {
    return false;
  }
}
