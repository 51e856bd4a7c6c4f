import type { Running } from "./program.ts";

export const PAGE_PATH = "/settings/kek-versions";

/** Where a `serve` process listens, as it said. */
export function addressOf(process: Running): string {
  const found = /is ready on (\S+),/.exec(process.stderr)?.[1];
  if (found === undefined) throw new Error(`it has not said where it listens: ${process.stderr}`);
  return found;
}
