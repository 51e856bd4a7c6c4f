import { expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { isMet, type Line, line, median, percentile, ratio } from "../../bench/line.ts";
import { kindOf, report, shown } from "../../bench/report.ts";
import { quietly, roundsKept, stolenShare, type Timed, thereAndBack } from "../../bench/rounds.ts";

/** That the benchmark works, on a small scale; how fast anything is depends on the machine, and is no test. */

const ROOT = join(import.meta.dir, "../..");
/** Of the larger of two databases. The smaller one has 10,000. */
const RECORDS = process.env["CERTAUTOPILOT_TEST_LONG"] === undefined ? 20_000 : 100_000;
const LARGER = `${RECORDS.toLocaleString("en")} records`;

test("its quick form measures the floor, a peer and growth, and judges no promise", async () => {
  const child = spawn(join(ROOT, "scripts/bench"), ["--quick", "--json", `--records=${RECORDS}`], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) child[name].on("data", (chunk) => (said[name] += chunk));
  const code = await new Promise((resolve) => child.once("close", resolve));
  expect([code, code === 0 ? "" : said.stderr]).toEqual([0, ""]);
  const { commit, machine, versions, lines } = JSON.parse(said.stdout) as {
    commit: string;
    machine: string;
    versions: Record<string, string>;
    lines: Line[];
  };
  expect(commit).toMatch(/^[0-9a-f]{12}/);
  expect(machine).toContain("cores");
  expect(Object.keys(versions)).toEqual(["certautopilot", "bun", "mongod"]);
  const names = lines.map(({ name }) => name);
  for (const part of [
    "rotate / floor, a statement a record",
    "rotate / rewrapManyDataKey",
    `time a record, ${LARGER} / 10,000`,
    `time a record by the bare driver, ${LARGER} / 10,000`,
    `peak memory, ${LARGER} / 10,000`,
    `${LARGER}, a fleet of 3: the whole command`,
    "growth: processor time kept back by the host, in each round that counts",
  ])
    expect(names).toContain(part);
  for (const { name, values } of lines) {
    const keptBack = name.includes(": processor time kept back by the host");
    // Of each of several rounds, with none that was taken again.
    if (keptBack) expect([name, values.length > 0]).toEqual([name, true]);
    else expect([name, values.length]).toEqual([name, 1]);
    const least = keptBack || name.includes(": rounds taken once more") ? 0 : Number.MIN_VALUE;
    expect([name, values.every((value) => Number.isFinite(value) && value >= least)]).toEqual([name, true]);
  }
  // So little, and once, says nothing of what is promised.
  for (const each of lines) expect(each).not.toHaveProperty("wanted");
}, 900_000);

test("the README has the figures that were kept of each kind of machine, whether met or not", () => {
  const read = (file: string) => readFileSync(join(ROOT, file), "utf8");
  const kinds = readdirSync(join(ROOT, "bench/results"));
  expect(kinds.length).toBeGreaterThan(0);
  for (const kind of kinds) {
    const page = read(`bench/results/${kind}/benchmark.md`);
    const [, promised = ""] = /## What is promised\n\n([^#]*)/.exec(page) ?? [];
    expect(promised.split("\n").length).toBeGreaterThan(15);
    expect(read("README.md")).toContain(promised.trim());
    expect(read("README.md")).toContain(`bench/results/${kind}/benchmark.md`);
  }
});

test("what it does not know is refused", async () => {
  const child = spawn(join(ROOT, "scripts/bench"), ["--only=nothing"], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk) => (said += chunk));
  expect(await new Promise((resolve) => child.once("close", resolve))).toBe(2);
  expect(said).toContain("error: unknown: nothing");
  expect(said).toContain("--only=floor,peers,growth");
});

test("a transit engine that is not there is refused before anything is measured", async () => {
  const words = ["--only=start", "--vault=./no-such-engine"];
  const child = spawn(join(ROOT, "scripts/bench"), words, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk) => (said += chunk));
  expect(await new Promise((resolve) => child.once("close", resolve))).toBe(2);
  expect(said).toContain("error: there is no program ./no-such-engine");
});

test("a part is kept beside the others, each with its commit", async () => {
  const kept = mkdtempSync(join(tmpdir(), "certautopilot-kept-"));
  const directory = join(kept, kindOf(cpus().length, cpus()[0]?.model.trim() ?? "unknown"));
  mkdirSync(directory);
  const before = (topic: string) => ({ ...line(topic, "old", "×", [1, 3]), at: "then", commit: "0123456789ab" });
  const lines = [before("Fleet"), before("Start")];
  writeFileSync(join(directory, "benchmark.json"), JSON.stringify({ lines }));
  const child = spawn(join(ROOT, "scripts/bench"), ["--quick", "--only=start", "--keep"], {
    env: { ...process.env, CERTAUTOPILOT_BENCH_RESULTS: kept },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (chunk) => (said += chunk));
  const code = await new Promise((resolve) => child.once("close", resolve));
  expect([code, code === 0 ? "" : said]).toEqual([0, ""]);
  expect(readdirSync(directory).sort()).toEqual(["benchmark.json", "benchmark.md", "benchmark.svg"]);
  const page = readFileSync(join(directory, "benchmark.md"), "utf8");
  expect(page).toContain("## Fleet\n\nthen, commit 0123456789ab.\n");
  expect(page).toContain("| old | 2.00 × | 1.00 – 3.00 | 2 |  |");
  expect(page).toMatch(/## Start\n\n\d{4}-\S+Z, commit [0-9a-f]{12}( with changes)?\.\n/);
  expect(page.match(/## Start/g)).toHaveLength(1);
  expect(page).toContain("| certautopilot --version |");
  rmSync(kept, { recursive: true });
}, 120_000);

test("the kind of a machine is told by its processors", () => {
  expect(kindOf(2, "AMD EPYC")).toBe("2-cores-amd-epyc");
  expect(kindOf(2, "Intel(R) Xeon(R) Processor")).toBe("2-cores-intel-xeon");
  expect(kindOf(8, "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz")).toBe("8-cores-intel-core-i7-8650u");
});

test("a round is taken again when the host kept processor time back in any part of it, and the quietest counts", async () => {
  const taken = async (...tries: number[][]) => {
    const stolen = tries.flat();
    let round = 0;
    const result = await quietly(
      async (timed) => {
        round += 1;
        for (const _ of tries[round - 1] ?? []) await timed(async () => undefined);
        return round;
      },
      () => () => stolen.shift() as number,
    );
    return [result, ...roundsKept()];
  };
  roundsKept();
  expect(await taken([0.01])).toEqual([1, { stolen: 0.01, tries: 1 }]);
  expect(await taken([0, 0.2], [0.03, 0.04])).toEqual([2, { stolen: 0.04, tries: 2 }]);
  expect(await taken([0.2], [0.05], [0.1])).toEqual([2, { stolen: 0.05, tries: 3 }]);
  const share = stolenShare()();
  expect(share >= 0 && share <= 1).toBe(true);
});

test("a round that is taken again goes the other way", async () => {
  const stolen = [0.2, 0, 0];
  const ways: number[] = [];
  const work = async (to: 1 | 2, timed: Timed) => await timed(async () => ways.push(to));
  expect(await thereAndBack(2, work, () => () => stolen.shift() as number)).toEqual([2, 3]);
  expect(ways).toEqual([2, 1, 2]);
});

test("a figure is the median of its rounds, and a ratio is taken round by round", () => {
  expect([median([3, 1, 2]), median([4, 1, 2, 3]), percentile([1, 2, 3, 4], 0.5)]).toEqual([2, 2.5, 3]);
  expect(ratio([2, 9], [1, 3])).toEqual([2, 3]);
  const met = line("T", "a", "×", [0.8, 1, 0.95], { atLeast: 0.9 });
  const missed = line("T", "b", "ms", [30, 10, 21], { atMost: 20 });
  expect([isMet(met), isMet(missed), isMet(line("T", "c", "s", [1]))]).toEqual([true, false, undefined]);
  const of = { at: "now", commit: "abc" };
  const page = report({ machine: "M", versions: { bun: "1" } }, [
    { ...met, ...of },
    { ...missed, ...of },
  ]);
  expect(page).toContain("M. bun 1.");
  expect(page).toContain("## T\n\nnow, commit abc.\n\n| figure |");
  expect(page).toContain("| a | 0.95 × | 0.80 – 1.00 | 3 | at least 0.90: met |");
  expect(page).toContain("| b | 21.0 ms | 10.0 – 30.0 | 3 | at most 20.0: not met |");
  expect([shown(12_345), shown(123.4), shown(12.34), shown(Number.NaN)]).toEqual(["12,345", "123", "12.3", "–"]);
});
