import type { Config } from "../config/config.ts";
import { SILENT } from "../errors/log.ts";
import { becomeMember, type Kek, type KekOptions } from "../fleet/kek.ts";
import { StatusReader } from "../status/read_status.ts";
import { appOf } from "./app.ts";
import { listen } from "./listener.ts";
import { EventLoopLag } from "./metrics/event_loop_lag.ts";
import { OperationMetrics } from "./metrics/exposition.ts";
import { metricsApp } from "./metrics/metrics_app.ts";

/** The long-running process: a member of the fleet that answers whether it is well. */

export interface Serving {
  kek: Kek;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: Omit<KekOptions, "observe">): Promise<Serving> {
  const operations = new OperationMetrics(config.encryption.provider);
  const membership = await becomeMember(config, { ...options, observe: operations.observe });
  const { kek, store, install } = membership;
  const lag = new EventLoopLag();
  try {
    const reader = new StatusReader(store, install, config);
    const feed = { view: () => reader.read() };
    const { role = "library", log = SILENT } = options;
    const metrics = metricsApp({ config, role, log, membership, feed, operations, lag });
    const app = appOf(kek, metrics);
    const { host, port } = config.server;
    const listener = listen({ on: { host, port } }, app.fetch);
    const stop = async () => {
      await listener.stop();
      lag.stop();
      await kek.close();
    };
    return { kek, address: listener.address, stop };
  } catch (thrown) {
    lag.stop();
    await kek.close();
    throw thrown;
  }
}
