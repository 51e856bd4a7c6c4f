import type { StatusView } from "../../status/status_view.ts";
import { FLEET_METRICS } from "./fleet_metrics.ts";
import { type Metric, secondsOf, single } from "./metric.ts";
import { ROTATION_METRICS } from "./rotation_metrics.ts";
import { VERSION_METRICS } from "./version_metrics.ts";

/** Whether the install's metrics could be read; the only one of them that is there when they could not. */
export const STATUS_UP: Metric<StatusView | undefined> = single(
  "certautopilot_status_up",
  "1 when this process could read the install's state in MongoDB for this scrape; at 0 the install's metrics are left out.",
  (view) => view !== undefined,
);

/** The install as MongoDB has it: each process tells the same. */
export const INSTALL_METRICS: Metric<StatusView>[] = [
  single("certautopilot_status_timestamp_seconds", "When the install's state was read, by MongoDB's clock.", ({ at }) =>
    secondsOf(at),
  ),
  ...VERSION_METRICS,
  ...ROTATION_METRICS,
  ...FLEET_METRICS,
];
