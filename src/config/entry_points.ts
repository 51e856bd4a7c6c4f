import { URL } from "node:url";

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
