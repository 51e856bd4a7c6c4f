import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";

/**
 * Says when the secrets file may have changed. The directory is watched, since editors and configuration tools replace
 * the file, and Kubernetes the link `..data` that it leads through; where watching is not possible, the next beat reads the
 * file anyway.
 */
export function watchSecrets(path: string, onChange: () => void): () => void {
  let watcher: FSWatcher | undefined;
  let settle: ReturnType<typeof setTimeout> | undefined;
  const SETTLE_MS = 50;
  try {
    watcher = watch(dirname(path), (_event, name) => {
      if (name !== null && ![basename(path), "..data"].includes(String(name))) return;
      clearTimeout(settle);
      settle = setTimeout(onChange, SETTLE_MS);
    });
    watcher.on("error", () => watcher?.close());
  } catch {
    watcher = undefined;
  }
  return () => {
    clearTimeout(settle);
    watcher?.close();
  };
}
