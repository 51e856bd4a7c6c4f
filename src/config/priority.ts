import { readdirSync } from "node:fs";
import { getPriority, setPriority } from "node:os";

/** Between 0, which services have, and 19. */
const NICE = 10;

/**
 * Services on this host come first, and MongoDB where it shares it: this whole process takes what they leave. The runtime's
 * compilers and collectors too: they take whole processors for moments, and most of them while the process starts.
 */
export function comeAfterServices(): void {
  for (const thread of threads()) {
    try {
      if (getPriority(thread) < NICE) setPriority(thread, NICE);
    } catch {
      // It ended meanwhile; or a sandbox forbids the system call: then it competes like any other.
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** On Linux each thread has a priority of its own, which those that it starts inherit; elsewhere they share their process's. */
function threads(): number[] {
  try {
    return readdirSync("/proc/self/task").map(Number);
  } catch {
    return [0];
  }
}
