import process from "node:process";
import { Hono } from "hono";
import type { Config } from "../../config/config.ts";
import { VERSION } from "../../config/version.ts";
import type { Log } from "../../errors/log.ts";
import type { Membership } from "../../fleet/join.ts";
import type { StatusView } from "../../status/status_view.ts";
import type { StatusFeed } from "../status_feed.ts";
import type { EventLoopLag } from "./event_loop_lag.ts";
import { CONTENT_TYPE, type OperationMetrics, textOf } from "./exposition.ts";
import { INSTALL_METRICS, STATUS_UP } from "./install_metrics.ts";
import { PROCESS_METRICS, type ProcessFacts } from "./process_metrics.ts";

export interface Measured {
  config: Pick<Config, "instanceName">;
  role: string;
  log: Log;
  membership: Pick<Membership, "encryption" | "standing">;
  feed: Pick<StatusFeed, "view">;
  operations: OperationMetrics;
  lag: EventLoopLag;
}

/** `GET /metrics`. */
export function metricsApp(measured: Measured): Hono {
  const { feed, operations, log } = measured;
  let complained = false;
  const view = async (): Promise<StatusView | undefined> => {
    const { view, fault } = await feed.view();
    // Once, not at each scrape.
    if (fault !== undefined && !complained) {
      log.warn(`/metrics is without the install's metrics: ${fault.error.message}`);
    }
    complained = fault !== undefined;
    return fault === undefined ? view : undefined;
  };
  const app = new Hono();
  app.get("/metrics", async (context) => {
    const install = await view();
    const parts = await Promise.all([
      textOf([STATUS_UP], install),
      install === undefined ? "" : textOf(INSTALL_METRICS, install),
      textOf(PROCESS_METRICS, factsOf(measured)),
      operations.text(),
    ]);
    return context.body(parts.filter((part) => part !== "").join("\n"), 200, { "content-type": CONTENT_TYPE });
  });
  return app;
}

// ---------------------------------------------------------------------------------------------------------------------

function factsOf({ config, role, membership, lag }: Measured): ProcessFacts {
  const { encryption, standing } = membership;
  const runtime = "Deno" in globalThis ? "deno" : "bun";
  return {
    build: { version: VERSION, runtime, runtimeVersion: process.versions[runtime] ?? "" },
    name: config.instanceName,
    role,
    ready: encryption.problem === undefined,
    writeVersion: encryption.writeVersion,
    standing: standing(),
    cpu: process.cpuUsage(),
    memory: process.memoryUsage(),
    startedAtMs: performance.timeOrigin,
    eventLoopLagMs: lag.worstMs,
  };
}
