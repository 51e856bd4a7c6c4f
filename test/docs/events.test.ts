import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { AUDIT_EVENTS } from "../../src/audit/chain.ts";

/** docs/monitor.md, held against the audit log's events: nothing is missing, nothing is made up. */

const page = readFileSync(join(import.meta.dir, "../../docs/monitor.md"), "utf8");

test("each audit event stands in the table of events, and no other", () => {
  const [, table = ""] = page.split("| events | when |");
  const rows = (table.split("\n\n")[0] ?? "").split("\n").filter((row) => row.startsWith("| `"));
  const told = rows.flatMap((row) => {
    const [first = "", ...rest] = [...(row.split("|")[1] ?? "").matchAll(/`([^`]+)`/g)].map(
      ([, name]) => name as string,
    );
    // The others of a row leave out what they have in common with the first.
    return [first, ...rest.map((name) => `${first.split(".")[0]}${name}`)];
  });
  expect(told.sort()).toEqual([...AUDIT_EVENTS].sort());
});
