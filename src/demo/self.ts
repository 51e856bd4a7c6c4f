import process from "node:process";
import { fileURLToPath } from "node:url";

/** How to start this very program again: the compiled binary, or its sources under Bun or Deno. */
export function selfCommand(): [string, ...string[]] {
  if (import.meta.url.includes("/$bunfs/")) return [process.execPath];
  const main = fileURLToPath(new URL("../main.ts", import.meta.url));
  return "Deno" in globalThis ? [process.execPath, "run", "-A", main] : [process.execPath, main];
}
