import process from "node:process";
import { fileURLToPath } from "node:url";

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
