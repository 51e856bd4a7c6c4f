import { afterAll } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory for one test file, removed after it. To be called at the file's top level. */
export function scratchDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-scratch-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
