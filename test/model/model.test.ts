import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The model of the protocol: clean as it is, broken with any guard taken out, and mapped to the sources. */

const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
/** A search of millions of states: a third of the time of all of them. */
const LARGE = ["LATE_COLLMOD"];
const ROOT = join(import.meta.dir, "../..");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

/** One run of spin, by name. It may share its core with the rest of the tests. */
function model(...names: string[]): { code: number | null; text: string } {
  const ran = spawnSync(join(ROOT, "scripts/model"), names, { encoding: "utf8", timeout: 290_000 });
  return { code: ran.status, text: ran.stdout + ran.stderr };
}

const RUNS: Record<string, string[]> = {
  holds: ["safety", "liveness"],
  broken: [
    "NO_FENCE",
    "NO_WAIT_FOR_ACKS",
    "NO_COMPARE_AND_SET",
    "ACKNOWLEDGE_BEFORE_APPLY",
    "READ_BEFORE_HEARTBEAT",
    "NO_SELF_FENCING",
    "NO_DRAIN",
    "NO_SECOND_COUNT",
    "NO_LEASE_CHECK",
    "EVICTION_SHORTER_THAN_LEASE",
    "CANCEL_LEAVES_FENCE_LIFTED",
    "CANCEL_LIFTS_ANOTHERS_FENCE",
    "COPY_OUTLIVES_EVICTION",
    "LATE_COLLMOD",
    "NO_EVICTION",
  ],
};

describe("spin", () => {
  for (const [outcome, names] of Object.entries(RUNS)) {
    for (const name of names) {
      test.skipIf(!LONG && LARGE.includes(name))(
        `${name}: ${outcome}`,
        () => {
          const { code, text } = model(name);
          expect(text).toContain(`${name}: ${outcome}, `);
          expect(text).toContain("1 as expected, 0 not");
          expect(code).toBe(0);
        },
        300_000,
      );
    }
  }

  test("every run of the script is one of these", () => {
    expect(model("--list").text.trim().split("\n").sort()).toEqual(Object.values(RUNS).flat().sort());
  });

  test("a name that is no run is refused", () => {
    const { code, text } = model("NO_SUCH_GUARD");
    expect(code).toBe(2);
    expect(text).toContain("there is no run called NO_SUCH_GUARD");
  });
});

describe("docs/protocol.md maps the model to the sources", () => {
  const section = read("docs/protocol.md").split("## The model\n")[1]?.split("\n## ")[0] ?? "";
  const rows = [...section.matchAll(/^\| ((?:Member|Application|World|Coordinator)?.*?) \| (.+ts`.+) \|$/gm)].map(
    (row) => ({
      steps: [...(row[1] as string).matchAll(/`(\w+)/g)].map((match) => match[1] as string),
      places: [...(row[2] as string).matchAll(/`([\w/]+\.ts)` ((?:`#?\w+`(?:, )?)+)/g)].map((match) => ({
        file: match[1] as string,
        names: [...(match[2] as string).matchAll(/`(#?\w+)`/g)].map((name) => name[1] as string),
      })),
    }),
  );
  const source = read("model/rotation.pml");

  test("each function it names is in the file it names", () => {
    expect(rows.length).toBeGreaterThan(15);
    for (const { steps, places } of rows) {
      expect(places.length, `the row of ${steps.join(", ")}`).toBeGreaterThan(0);
      for (const { file, names } of places) {
        const text = read(join("src", file));
        for (const name of names) {
          // A definition: a function, a method or getter, a constant, a class; not a mere use.
          const defined = new RegExp(`(function|class|const|async|get|readonly)\\*? ${name}\\b|^  ${name}\\(`, "m");
          expect(defined.test(text), `${name} in ${file}`).toBe(true);
        }
      }
    }
  });

  test("each step of the model is in it, and it names no other", () => {
    const labels = [...source.matchAll(/^(\w+):$/gm)].map((match) => match[1] as string);
    const inlines = [...source.matchAll(/^inline (\w+)/gm)].map((match) => match[1] as string);
    const bookkeeping = ["start", "end", "zero_again", "at_zero", "forgets", "synced", "dies", "epoch_grows"];
    const checks = ["all_know", "every_record_opens", "nobody_holds", "record_changes"];
    const steps = [...new Set([...labels, ...inlines])].filter((name) => ![...bookkeeping, ...checks].includes(name));
    const mapped = rows.flatMap((row) => row.steps);
    for (const step of steps) expect(mapped, step).toContain(step);
    for (const step of mapped) expect(source, step).toMatch(new RegExp(`\\b${step}\\b`));
  });
});

describe("src/protocol names the section and the step of the model that each rule has", () => {
  const files = readdirSync(join(ROOT, "src/protocol")).filter((name) => name.endsWith(".ts"));
  const rules = files.flatMap((file) => {
    const text = read(join("src/protocol", file));
    return [...text.matchAll(/^export function (\w+)/gm)].map(({ 1: name = "", index }) => ({
      file,
      name,
      tag: /Protocol: "([^"]+)"\. Model: ([\w, ]+)\.\n? ?\*\/\n$/.exec(text.slice(0, index)),
    }));
  });

  test("each rule names a section of docs/protocol.md, and that section names its file", () => {
    expect(rules.length).toBeGreaterThan(30);
    const document = read("docs/protocol.md");
    for (const { file, name, tag } of rules) {
      expect(tag, `${name} in ${file}`).not.toBeNull();
      const section = document.split(`\n## ${tag?.[1]}\n`)[1]?.split("\n## ")[0];
      expect(section, `${name}: the section ${tag?.[1]}`).toContain(`protocol/${file}`);
    }
  });

  test("each names steps that the model has, and the model's pure rules are all named", () => {
    const source = read("model/rotation.pml");
    const named = rules.flatMap(({ tag }) => (tag?.[2] === "left out" ? [] : (tag?.[2]?.split(", ") ?? [])));
    for (const step of named) expect(source, step).toMatch(new RegExp(`\\b${step}\\b`));
    for (const rule of [
      "may_hold",
      "writes",
      "silent",
      "may_land",
      "can_close",
      "advance_phase",
      "await_acknowledgements",
    ])
      expect(named, rule).toContain(rule);
  });
});
