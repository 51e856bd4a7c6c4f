import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Observe, Observed, Operation } from "../../fleet/operation_observer.ts";
import type { Metric } from "./metric.ts";

/** The only file that knows Prometheus: tables of metrics become its text format (0.0.4). */

export const CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

export const OPERATION_METRIC = {
  name: "certautopilot_operation_duration_seconds",
  help: "Time that encrypt and decrypt took, and the provider's wrap and unwrap in them; outcome is ok or the error's code.",
  type: "histogram",
  labels: ["operation", "provider", "outcome"],
} as const;

/** From keys in memory (tens of microseconds) to an HSM at the end of its patience. */
const BUCKETS = [
  0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30,
];

const OPERATIONS: Operation[] = ["encrypt", "decrypt", "wrap", "unwrap"];

type Series = ReturnType<Histogram["labels"]>;

/** Counts what a process does with keys. */
export class OperationMetrics {
  readonly #registry = new Registry();
  readonly #histogram: Histogram;
  readonly #series = new Map<string, Series>();

  /** @param provider of the install: its operations are there from the start, at zero. */
  constructor(provider: Observed["provider"]) {
    const { name, help, labels } = OPERATION_METRIC;
    this.#histogram = new Histogram({ name, help, labelNames: labels, buckets: BUCKETS, registers: [this.#registry] });
    for (const operation of OPERATIONS) this.#histogram.zero({ operation, provider, outcome: "ok" });
  }

  readonly observe: Observe = ({ operation, provider, outcome, seconds }) => {
    const key = `${operation} ${provider} ${outcome}`;
    const series = this.#series.get(key) ?? this.#histogram.labels({ operation, provider, outcome });
    this.#series.set(key, series);
    series.observe(seconds);
  };

  async text(): Promise<string> {
    return await this.#registry.metrics();
  }
}

/** The text of a table's metrics, those that have something to say. */
export async function textOf<Facts>(metrics: readonly Metric<Facts>[], facts: Facts): Promise<string> {
  const registry = new Registry();
  for (const metric of metrics) {
    const samples = metric.samples(facts);
    if (samples.length === 0) continue;
    const options = { name: metric.name, help: metric.help, labelNames: metric.labels, registers: [registry] };
    if (metric.type === "counter") {
      const counter = new Counter(options);
      for (const { labels, value } of samples) counter.inc(labels, value);
    } else {
      const gauge = new Gauge(options);
      for (const { labels, value } of samples) gauge.set(labels, value);
    }
  }
  return await registry.metrics();
}
