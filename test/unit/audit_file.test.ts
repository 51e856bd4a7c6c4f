import { describe, expect, test } from "bun:test";
import { chownSync, linkSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { JsonLinesFile } from "../../src/audit/json_lines.ts";
import { scratchDirectory } from "../harness/scratch.ts";

const scratch = scratchDirectory();
const SERVICE = { uid: 54321, gid: 54321 };

describe.skipIf(process.getuid?.() !== 0)(
  "the audit file in a directory of the service's user, written by root",
  () => {
    const directory = join(scratch, "state");
    mkdirSync(directory, { mode: 0o750 });
    chownSync(directory, SERVICE.uid, SERVICE.gid);

    test("is that user's, who continues with it", () => {
      const path = join(directory, "audit.jsonl");
      new JsonLinesFile(path);
      const { uid, gid, mode } = statSync(path);
      expect({ uid, gid, mode: mode & 0o777 }).toEqual({ ...SERVICE, mode: 0o600 });
    });

    test("is never a file of somebody else that was put there", () => {
      const victim = join(scratch, "victim");
      writeFileSync(victim, "untouched");
      symlinkSync(victim, join(directory, "symbolic"));
      linkSync(victim, join(directory, "hard"));
      for (const name of ["symbolic", "hard"])
        expect(() => new JsonLinesFile(join(directory, name))).toThrow("cannot be written");
      expect(readFileSync(victim, "utf8")).toBe("untouched");
    });
  },
);
