import process from "node:process";
import { fileURLToPath, URL } from "node:url";

/** This very program: the compiled binary, or its sources under Bun or Deno. */

/** How to start it again. */
export function selfCommand(): [string, ...string[]] {
  const binary = compiledBinary();
  if (binary !== undefined) return [binary];
  const main = fileURLToPath(new URL("../main.ts", import.meta.url));
  return "Deno" in globalThis ? [process.execPath, "run", "-A", main] : [process.execPath, main];
}

/** The file that holds this program whole; undefined where it runs from its sources. */
export function compiledBinary(): string | undefined {
  return import.meta.url.includes("/$bunfs/") ? process.execPath : undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * Asks the runtime to give back what is no longer used. Bun lets its heap grow with the machine's memory, and what a batch
 * leaves behind lies mostly outside that heap: without this the process grows with the number of records.
 */
export function collectGarbage(): void {
  (globalThis as { Bun?: { gc(synchronously: boolean): void } }).Bun?.gc(true);
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * Where a worker thread's code is. In the sources it lies beside the file that starts it; in the compiled binary every entry
 * point keeps its path below the root of the embedded files, wherever the code that starts it has been put.
 * @param path of the file below src/
 * @param from import.meta.url of a file that is in the same folder
 */
export function threadEntry(path: string, from: string): URL {
  const root = from.indexOf(EMBEDDED);
  if (root >= 0) return new URL(`${from.slice(0, root)}${EMBEDDED}${path}`);
  return new URL(path.slice(path.lastIndexOf("/") + 1), from);
}

const EMBEDDED = "/$bunfs/root/";
