import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { mongodBinary } from "../test/harness/mongod_here.ts";
import { againstFloor } from "./against_floor.ts";
import { againstPeers } from "./against_peers.ts";
import { api } from "./api.ts";
import { chart } from "./chart.ts";
import { disturbance } from "./disturbance.ts";
import { fleet } from "./fleet.ts";
import { growth, growthBesides, PROMISED_OF } from "./growth.ts";
import { hotPath } from "./hot_path.ts";
import { hsm } from "./hsm.ts";
import { type Line, line, type Measured } from "./line.ts";
import { circumstances, report } from "./report.ts";
import { roundsKept, takeEachOnce } from "./rounds.ts";
import { scan } from "./scan.ts";
import { run, type Stage, say, withStage } from "./stage.ts";
import { start } from "./start.ts";

/**
 * ./scripts/bench [--quick] [--records=N] [--rounds=N] [--only=TOPIC,… [--keep]] [--vault=PROGRAM] [--json]: what this machine makes of the product,
 * beside what it makes of the floor and the peers.
 */

interface Asked {
  /** Of the largest database. */
  records: number;
  rounds: number;
  /** OpenBao or Vault. */
  vault: string | undefined;
  /** Whether it works, not how fast: fewer ways of sending are tried, fewer data keys made. */
  quick: boolean;
}

const QUICK = { records: "100000", rounds: "1", only: "floor,peers,growth" };

const LEAST = 10_000;
const SIZES = [10_000, 100_000, 1_000_000, 10_000_000];
const TOPICS: Record<string, (stage: Stage, asked: Asked) => Promise<Line[]>> = {
  floor: (stage, { records, rounds, quick }) => againstFloor(stage, Math.min(records, 100_000), rounds, quick),
  peers: (stage, { records, rounds, vault, quick }) =>
    againstPeers(stage, Math.min(records, quick ? 5_000 : 50_000), rounds, {
      python: process.env["CERTAUTOPILOT_BENCH_PYTHON"],
      vault,
    }),
  growth: (stage, { records, rounds }) =>
    growth(stage, [...new Set([...SIZES.filter((size) => size <= records), records])], rounds),
  besides: (stage, { records, rounds }) => growthBesides(stage, Math.min(records, 50_000), rounds),
  fleet: (stage, { rounds }) => fleet(stage, [10, 100, 500], rounds),
  disturbance: (stage, { rounds }) => disturbance(stage, rounds),
  hot: (stage, { rounds }) => hotPath(stage, rounds),
  api: (stage, { rounds }) => api(stage, rounds),
  hsm: (stage, { rounds }) => hsm(stage, rounds),
  scan: (stage, { records, rounds }) => scan(stage, Math.min(records, 300_000), rounds),
  start: (stage) => start(stage, 11),
};
const FLAGS = ["quick", "records", "rounds", "only", "keep", "vault", "json"];

const flags = new Map(
  process.argv.slice(2).map((word): [string, string] => {
    const [name = "", value = ""] = word.replace(/^--/, "").split("=");
    return [name, value];
  }),
);
const quick = flags.has("quick");
if (quick) takeEachOnce();
if (quick) for (const [name, value] of Object.entries(QUICK)) if (!flags.has(name)) flags.set(name, value);
const asked: Asked = {
  records: Number(flags.get("records") ?? 1_000_000),
  rounds: Number(flags.get("rounds") ?? 3),
  vault: flags.has("vault") ? (Bun.which(flags.get("vault") ?? "") ?? undefined) : undefined,
  quick,
};
const only = flags.get("only")?.split(",") ?? Object.keys(TOPICS);
const absent = flags.has("vault") && asked.vault === undefined;
const unknown = [
  ...[...flags.keys()].filter((name) => !FLAGS.includes(name)).map((name) => `--${name}`),
  ...only.filter((topic) => !(topic in TOPICS)),
];
if (unknown.length > 0 || absent || !(asked.records >= LEAST) || !(asked.rounds >= 1)) {
  const few = `at least ${LEAST} records and 1 round`;
  say(
    `error: ${unknown.length > 0 ? `unknown: ${unknown.join(", ")}` : absent ? `there is no program ${flags.get("vault")}` : few}`,
  );
  say(`hint: --quick --keep --records=N --rounds=N --only=${Object.keys(TOPICS).join(",")} --vault=PROGRAM --json`);
  process.exit(2);
}

const version = (await run(["--version"], {})).stdout.trim();
const about = circumstances(mongodBinary(), version);
/** Figures of one kind of machine say little of another, so each has a directory. */
const RESULTS = join(process.env["CERTAUTOPILOT_BENCH_RESULTS"] ?? join(import.meta.dir, "results"), about.kind);
const KEPT = join(RESULTS, "benchmark.json");
const lines: Measured[] = [];
await withStage(async (stage) => {
  for (const topic of only) {
    lines.push(...(await measured(topic, stage)));
    // A part of the benchmark, or of fewer records, is for looking at, unless it is to be kept.
    if (flags.has("keep") || (!flags.has("only") && asked.records >= PROMISED_OF)) keep();
  }
});
process.stdout.write(flags.has("json") ? asJson() : asPage());

// ---------------------------------------------------------------------------------------------------------------------

/** With what a topic's figures are to be read by: how much of the machine its rounds had. */
async function measured(topic: string, stage: Stage): Promise<Measured[]> {
  const figures = (await TOPICS[topic]?.(stage, asked)) ?? [];
  const [first] = figures;
  const kept = roundsKept();
  if (first !== undefined && kept.length > 0) {
    const stolen = kept.map((round) => round.stolen * 100);
    const again = kept.reduce((sum, { tries }) => sum + tries - 1, 0);
    const of = "processor time kept back by the host, in each round that counts";
    figures.push(
      line(first.topic, `${topic}: ${of}`, "%", stolen),
      line(first.topic, `${topic}: rounds taken once more for that`, "", [again]),
    );
  }
  const { at, commit } = about;
  // So little, and each once, is no measure of what is promised.
  return figures.map(({ wanted, ...figure }) => ({ ...figure, ...(wanted && !quick && { wanted }), at, commit }));
}

function asPage(all = lines): string {
  return `${report(about, all)}\n`;
}

function asJson(all = lines): string {
  return `${JSON.stringify({ ...about, lines: all }, null, 2)}\n`;
}

/** What there is so far: the whole takes long, so a part may be taken again, or later. Each topic is of one run. */
function keep(): void {
  mkdirSync(RESULTS, { recursive: true });
  const there: Measured[] = existsSync(KEPT) ? JSON.parse(readFileSync(KEPT, "utf8")).lines : [];
  const measured = new Set(lines.map(({ topic }) => topic));
  const others = there.filter(({ topic }) => !measured.has(topic));
  const all = [...others, ...lines];
  writeFileSync(KEPT, asJson(all));
  writeFileSync(join(RESULTS, "benchmark.md"), asPage(all));
  writeFileSync(join(RESULTS, "benchmark.svg"), chart(all, about.machine));
  say(`written to ${relative(process.cwd(), RESULTS)}`);
}
