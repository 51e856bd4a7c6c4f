/** What the benchmark tells: lines of a table, each one figure over the rounds of one run. Pure. */
export interface Line {
  /** The table it stands in. */
  topic: string;
  name: string;
  unit: string;
  /** One a round. */
  values: number[];
  /** What the project promises of the median. */
  wanted?: { atLeast: number } | { atMost: number };
}

/** A line and of what it tells: the topics of a page may have been measured at different hours, and of different commits. */
export interface Measured extends Line {
  at: string;
  commit: string;
}

export function line(topic: string, name: string, unit: string, values: number[], wanted?: Line["wanted"]): Line {
  return { topic, name, unit, values, ...(wanted && { wanted }) };
}

/** @param rounds what each round came to. @returns what gives one figure of all of them. */
export function columns<T>(rounds: T[]): <K extends keyof T>(what: K) => T[K][] {
  return (what) => rounds.map((round) => round[what]);
}

/** Round by round, so that a machine that grows slower for a while does not favour either. */
export function ratio(over: number[], under: number[]): number[] {
  return over.map((value, round) => value / (under[round] as number));
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** @param share from 0 to 1. */
export function percentile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** @returns undefined when nothing is promised. */
export function isMet({ values, wanted }: Line): boolean | undefined {
  if (wanted === undefined) return undefined;
  const middle = median(values);
  return "atLeast" in wanted ? middle >= wanted.atLeast : middle <= wanted.atMost;
}
