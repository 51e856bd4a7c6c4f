import { describe, expect, test } from "bun:test";
import { unpainted } from "../../src/cli/screen.ts";
import { printable, statusLine, statusLines } from "../../src/cli/status_text.ts";
import { cut, sparkline, table, wrapped } from "../../src/cli/table.ts";
import { viewOf } from "../../src/status/build_status_view.ts";
import type { StatusFacts } from "../../src/status/status_facts.ts";
import { ago, facts, NOW, rotating, rotation, steady, version } from "../harness/facts.ts";

const lines = (seen: StatusFacts, width = 80) => statusLines(viewOf(seen), { width, paint: unpainted });

/** More of everything than anybody has on a screen. */
function huge(): StatusFacts {
  const roster = Array.from({ length: 200 }, (_, number) =>
    steady(number, { instance_name: `a-rather-long-name-of-a-pod-${number}`, age_ms: number === 150 ? 99_000 : 10 }),
  );
  const failed = Array.from({ length: 500 }, (_, id) => ({
    field: "secrets:value",
    id: String(id),
    reason: "x".repeat(300),
  }));
  const fields = Array.from({ length: 40 }, (_, index) => ({
    field: `c${index}:value`,
    done: index,
    remaining: 9,
    failed: 1,
  }));
  const pace = Array.from({ length: 60 }, (_, index) => ({ at: ago((60 - index) * 1000), done: index * index }));
  const doc = rotation(2, { failed, fields, pace });
  const history = Array.from({ length: 50 }, (_, index) =>
    rotation(3, {
      _id: 100 - index,
      state: "completed",
      ended_at: ago(1000),
      started_by: "somebody with a long name ".repeat(3),
    }),
  );
  const versions = [
    version(1, "active"),
    version(2, "staged"),
    ...Array.from({ length: 40 }, (_, at) => version(at + 3, "retired")),
  ];
  const rows = Array.from({ length: 100 }, (_, index) => ({ field: `c${index}:value`, version: "1", count: 10 ** 9 }));
  const entries = Array.from({ length: 12 }, (_, index) => ({
    seq: 900 - index,
    at: NOW,
    actor: "cli host-a pid 9",
    event: "rotation.progress" as const,
    data: { text: "y".repeat(500) },
    prev: "",
    mac: "",
  }));
  return rotating(doc, {
    state: { versions, rotation: doc },
    roster,
    history,
    versionCounts: { rows, at: ago(90_000) },
    audit: { entries, chain: { state: "whole", checked: 12, fault: null } },
  });
}

describe("kek status in words", () => {
  test.each([80, 120])("however much there is, %i columns hold it, and long lists are counted", (width) => {
    const shown = lines(huge(), width);
    for (const line of shown) expect(line.length).toBeLessThanOrEqual(width);
    expect(shown.length).toBeLessThan(230);
    const more = shown.filter((line) => /\d+ more$/.test(line)).map((line) => line.trim());
    expect(more).toEqual(
      expect.arrayContaining([
        "and 490 more",
        "and 188 more",
        "and 180 more",
        "and 42 more",
        "and 70 more",
        "and 22 more",
        "and 20 more",
      ]),
    );
    // Of the processes that are not all shown, the silent one is.
    expect(shown.findIndex((line) => line.includes(" silent, "))).toBeGreaterThan(0);
  });

  test("the health comes first, with what is to be done", () => {
    const shown = lines(facts({ roster: [steady(1, { age_ms: 45_000 })] }), 200);
    expect(shown.slice(0, 3)).toEqual([
      "1 thing needs attention",
      "problem: api-1 (api, host-a, pid 1) is silent: its last heartbeat was 45 s ago",
      "   hint: start it again; if it is gone for good, evict it: certautopilot kek rotate --to-version=N --evict=member-1",
    ]);
    expect(statusLine(viewOf(facts()))).toBe(
      "2026-05-01T12:00:00.000Z ok: Healthy: 3 processes serve and write under KEK version 1",
    );
  });

  test("a rotation: who leads it, whom it waits for and why, how far it is, what can be done", () => {
    const silent = { ...rotating(rotation(2), { late: 1 }).roster[2], age_ms: 45_000 } as StatusFacts["roster"][number];
    const seen = rotating(rotation(2, { lease: { owner: "cli host-a pid 9", token: 1, expires_at: ago(90_000) } }));
    const shown = lines({ ...seen, roster: [...seen.roster.slice(0, 2), silent] }, 200);
    for (const line of [
      "rotation 3: KEK 1 → 2, running, phase 2 of 3 (re-wrap)",
      "  started       2026-05-01T11:59:00Z by cli host-a pid 9, 60 s ago",
      "  phases        1 announce since 2026-05-01T11:59:00Z, 2 re-wrap since 2026-05-01T11:59:10Z",
      "  led by        nobody: cli host-a pid 9 is gone, its lease ran out 90 s ago",
      "  waits for     api-3 (api, host-a, pid 3) is silent: its last heartbeat was 45 s ago",
      "  acknowledged  2 of 3 processes",
      "  secrets:value  40    60    0       ████████░░░░░░░░░░░░ 40%",
      "  go on         certautopilot kek rotate --to-version=2",
      "  back          certautopilot kek rotate --to-version=1 --from-version=2",
    ]) {
      expect(shown).toContain(line);
    }
  });

  test("nothing that somebody wrote into MongoDB moves the cursor, or forges a line", () => {
    const name = "evil\u001b[2J\u009b1A\r\nHealthy: all is well";
    const shown = lines(facts({ roster: [steady(1, { instance_name: name, age_ms: 99_000 })] }), 200);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    for (const line of shown) expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
    expect(shown.filter((line) => line.startsWith("Healthy"))).toEqual([]);
    expect<unknown>(printable({ [name]: [name, 1, null] })).toEqual({
      "evil·[2J·1A··Healthy: all is well": ["evil·[2J·1A··Healthy: all is well", 1, null],
    });
  });
});

describe("what fits onto lines", () => {
  test("the widest columns of a table give way first", () => {
    expect(
      table(
        ["a", "b"],
        [
          ["1", "a long cell, longer than the others"],
          ["22", "x"],
        ],
        20,
      ),
    ).toBe("a   b\n1   a long cell, lo…\n22  x");
    expect(table(["a"], [["1"]])).toBe("a\n1");
    expect(cut("abc", 3)).toBe("abc");
    expect(wrapped("hint: ", "one two three", 13)).toEqual(["hint: one two", "      three"]);
  });

  test("a line of blocks over time, however the points lie", () => {
    const at = (...pairs: [number, number][]) => pairs.map(([time, value]) => ({ at: time, value }));
    expect(sparkline(at([0, 0], [10, 10], [20, 20]), 4)).toBe("▅▅██");
    expect(sparkline(at([0, 0], [1, 0]), 3)).toBe("▁▁▁");
    expect(sparkline(at([0, 5]), 3)).toBe("");
  });
});
