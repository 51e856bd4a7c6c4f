import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cpus, release, type as systemType, totalmem } from "node:os";
import { join } from "node:path";
import { isMet, type Line, type Measured, median } from "./line.ts";

const ROOT = join(import.meta.dir, "..");

/** The figures as a page of tables, for people and for the repository. */

export interface Circumstances {
  at: string;
  commit: string;
  machine: string;
  /** The kind of machine in a few words, as the name of a directory. */
  kind: string;
  versions: Record<string, string>;
}

/** Where and of what a run was made. @param mongod the program that ran. */
export function circumstances(mongod: string, version: string): Circumstances {
  const model = cpus()[0]?.model.trim() ?? "unknown";
  const gib = (totalmem() / 2 ** 30).toFixed(0);
  const said = (command: string, words: string[]) =>
    execFileSync(command, words, { encoding: "utf8", cwd: ROOT }).trim();
  return {
    at: new Date().toISOString().replace(/\.\d+Z$/, "Z"),
    commit: commitOf(said),
    machine: `${cpus().length} cores (${model}), ${gib} GiB, ${systemType()} ${release()}`,
    kind: kindOf(cpus().length, model),
    versions: {
      certautopilot: version,
      bun: Bun.version,
      mongod: /v([\d.]+)/.exec(said(mongod, ["--version"]))?.[1] ?? "unknown",
    },
  };
}

function commitOf(said: (command: string, words: string[]) => string): string {
  // An archive of the sources knows of none.
  if (!existsSync(join(ROOT, ".git"))) return "unknown";
  const changed = said("git", ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results"]) !== "";
  return said("git", ["rev-parse", "--short=12", "HEAD"]) + (changed ? " with changes" : "");
}

/** @param model as the processor calls itself: "Intel(R) Xeon(R) Processor @ 2.20GHz". */
export function kindOf(cores: number, model: string): string {
  const words = model
    .replace(/\((r|tm)\)|\b(processor|cpu)\b|@.*/gi, " ")
    .toLowerCase()
    .match(/[a-z0-9]+/g);
  return [cores, "cores", ...(words ?? [])].join("-");
}

/** Of the run that was last; each topic says of when and of which commit it is. */
export function report({ machine, versions }: Pick<Circumstances, "machine" | "versions">, lines: Measured[]): string {
  const made = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  const topics = [...new Set(lines.map(({ topic }) => topic))];
  return [
    "# Benchmark",
    "",
    `${machine}. ${made.join(", ")}.`,
    "Made by `./scripts/bench`. Each figure is the median of so many rounds; beside it the lowest and the highest.",
    "",
    ...table(
      "What is promised",
      lines.filter((each) => each.wanted !== undefined),
    ),
    ...topics.flatMap((topic) => {
      const its = lines.filter((each) => each.topic === topic);
      const [first] = its;
      return table(topic, its, first && `${first.at}, commit ${first.commit}.`);
    }),
  ].join("\n");
}

export function shown(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

// ---------------------------------------------------------------------------------------------------------------------

function table(topic: string, lines: Line[], told?: string): string[] {
  const rows = lines.map((each) => {
    const { name, unit, values } = each;
    const spread = values.length > 1 ? `${shown(Math.min(...values))} – ${shown(Math.max(...values))}` : "";
    const figure = `${shown(median(values))} ${unit}`.trim();
    return `| ${[name, figure, spread, values.length, wanted(each)].join(" | ")} |`;
  });
  return [
    `## ${topic}`,
    "",
    ...(told === undefined ? [] : [told, ""]),
    "| figure | median | spread | rounds | wanted |",
    "| --- | ---: | ---: | ---: | --- |",
    ...rows,
    "",
  ];
}

function wanted(each: Line): string {
  if (each.wanted === undefined) return "";
  const limit =
    "atLeast" in each.wanted ? `at least ${shown(each.wanted.atLeast)}` : `at most ${shown(each.wanted.atMost)}`;
  return `${limit}: ${isMet(each) ? "met" : "not met"}`;
}
