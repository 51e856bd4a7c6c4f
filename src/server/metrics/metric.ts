/** One metric, as a table row: how it is called, and how its samples follow from what is known. Nothing here knows Prometheus. */
export interface Metric<Facts> {
  name: string;
  help: string;
  type: "gauge" | "counter";
  /** Every sample has all of them. */
  labels: readonly string[];
  /** None where nothing can be said: a metric that is absent is not zero. */
  samples(facts: Facts): Sample[];
}

export interface Sample {
  labels: Record<string, string>;
  value: number;
}

/** A metric without labels. @param value null or undefined where nothing can be said. */
export function single<Facts>(
  name: string,
  help: string,
  value: (facts: Facts) => number | boolean | null | undefined,
  type: "gauge" | "counter" = "gauge",
): Metric<Facts> {
  const row = (facts: Facts): [[], number][] => {
    const found = value(facts);
    return found === null || found === undefined ? [] : [[[], Number(found)]];
  };
  return labelled(name, help, [], row, type);
}

/** A metric with labels: values in the order of their names. */
export function labelled<Facts>(
  name: string,
  help: string,
  labels: readonly string[],
  rows: (facts: Facts) => [values: (string | number)[], value: number | boolean][],
  type: "gauge" | "counter" = "gauge",
): Metric<Facts> {
  return {
    name,
    help,
    type,
    labels,
    samples: (facts) =>
      rows(facts).map(([values, value]) => ({
        labels: Object.fromEntries(labels.map((label, index) => [label, String(values[index])])),
        value: Number(value),
      })),
  };
}

/** One of several states: 1 for the one it is in, 0 for the others, so that rules can name each. */
export function oneOf<State extends string>(all: readonly State[], now: State): [[State], boolean][] {
  return all.map((state) => [[state], state === now]);
}

export function secondsOf(rfc3339: string): number {
  return Date.parse(rfc3339) / 1000;
}
