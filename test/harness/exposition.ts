import { spawnSync } from "node:child_process";

/** What a process tells at /metrics, read back from the text. */
export interface Scrape {
  text: string;
  /** `name{labels}` as it stands → value. */
  samples: Map<string, number>;
  /** Names of metrics: of a histogram its own, without _bucket, _sum and _count. */
  names: Set<string>;
  /** The value of one sample. @throws Error when there is not exactly one that has these labels. */
  value(name: string, labels?: Record<string, string>): number;
  /** Every sample of a name that has these labels. */
  values(name: string, labels?: Record<string, string>): number[];
}

/** @throws Error at a line that is neither a comment nor a sample. */
export function parseExposition(text: string): Scrape {
  const samples = new Map<string, number>();
  const names = new Set<string>();
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const type = /^# TYPE (\S+) (gauge|counter|histogram)$/.exec(line);
    if (type?.[1] !== undefined) {
      if (names.has(type[1])) throw new Error(`told twice: ${type[1]}`);
      names.add(type[1]);
    }
    if (line.startsWith("# ")) continue;
    const sample = /^([a-z_]+(?:\{.*\})?) (\S+)$/.exec(line);
    if (sample?.[1] === undefined || Number.isNaN(Number(sample[2]))) throw new Error(`no sample: ${line}`);
    if (samples.has(sample[1])) throw new Error(`told twice: ${sample[1]}`);
    samples.set(sample[1], Number(sample[2]));
  }
  const values: Scrape["values"] = (name, labels = {}) =>
    [...samples]
      .filter(([key]) => key === name || key.startsWith(`${name}{`))
      .filter(([key]) => Object.entries(labels).every(([label, value]) => key.includes(`${label}="${value}"`)))
      .map(([, value]) => value);
  return {
    text,
    samples,
    names,
    values,
    value(name, labels) {
      const found = values(name, labels);
      if (found.length !== 1 || found[0] === undefined)
        throw new Error(`${found.length} samples of ${name} ${JSON.stringify(labels)}`);
      return found[0];
    },
  };
}

/** Of a PromQL expression or any other text. */
export function metricsIn(text: string): string[] {
  const found = text.match(/certautopilot_[a-z_]+/g) ?? [];
  return [...new Set(found.map((name) => name.replace(/^(.*_duration_seconds)_(bucket|sum|count)$/, "$1")))].sort();
}

export const PROMTOOL = process.env["CERTAUTOPILOT_TEST_PROMTOOL"];

/** What promtool says against it; empty when it finds nothing. */
export function promtool(words: string[], input = ""): string {
  const ran = spawnSync(PROMTOOL ?? "promtool", words, { input, encoding: "utf8", timeout: 60_000 });
  return ran.status === 0 ? "" : `${ran.error ?? ""}${ran.stdout}${ran.stderr}`;
}
