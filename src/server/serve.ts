import type { Config } from "../config/config.ts";
import { SILENT } from "../errors/log.ts";
import type { FieldEncryption } from "../fleet/fleet_encryption.ts";
import { becomeMember, type FieldEncryptionOptions } from "../fleet/join.ts";
import { StatusReader } from "../status/read_status.ts";
import { auditTail } from "../store/audit_tail.ts";
import type { ApiOptions } from "./api/api.ts";
import { BearerToken } from "./api/token.ts";
import { appOf } from "./app.ts";
import { refuseOpenApi } from "./exposure.ts";
import { type Listener, listen } from "./listener.ts";
import { EventLoopLag } from "./metrics/event_loop_lag.ts";
import { OperationMetrics } from "./metrics/exposition.ts";
import { metricsApp } from "./metrics/metrics_app.ts";
import { StatusFeed } from "./status_feed.ts";
import { readTls } from "./tls_files.ts";
import { listenOnSocket } from "./unix_socket.ts";

/** The long-running process: a member of the fleet that shows the install, and encrypts for others if it is told to. */

export interface Serving {
  encryption: FieldEncryption;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: Omit<FieldEncryptionOptions, "observe">): Promise<Serving> {
  const { role = "library", log = SILENT } = options;
  const { host, port, hosts } = config.server;
  refuseOpenApi(config);
  const tls = config.server.tls === undefined ? undefined : readTls(config.server.tls);
  const token = config.api === undefined ? undefined : new BearerToken(config.api.tokenFile, log);
  const operations = new OperationMetrics(config.encryption.provider);
  const membership = await becomeMember(config, { ...options, observe: operations.observe });
  const { encryption, store, install } = membership;
  const { uri } = config.database;
  const feed = new StatusFeed(new StatusReader(store, install, config), { uri, log });
  const lag = new EventLoopLag();
  const listeners: Listener[] = [];
  const stop = async () => {
    feed.close();
    for (const listener of listeners) await listener.stop();
    lag.stop();
    await encryption.close();
  };
  try {
    const api: ApiOptions | undefined = token === undefined ? undefined : { encryption, token, log, uri, hosts };
    const metrics = metricsApp({ config, role, log, membership, feed, operations, lag });
    const app = appOf({ encryption, metrics, feed, hosts, api });
    const listener = listen({ on: { host, port }, tls }, app.fetch);
    listeners.push(listener);
    if (api !== undefined) log.info(`the API answers on ${listener.address}/v1`);
    if (config.api?.socket !== undefined) {
      listeners.push(await listenOnSocket(config.api.socket, app.fetch));
      log.info(`the API answers on unix:${config.api.socket} too`);
    }
    const { chain } = await auditTail(store, config.audit.secret, 1);
    if (chain.state === "broken") {
      log.warn(
        `CERTAUTOPILOT_AUDIT_SECRET is not what the audit log's last entry was written with (${chain.fault}): this process can neither add to it nor check it`,
      );
    }
    return { encryption, address: listener.address, stop };
  } catch (thrown) {
    await stop();
    throw thrown;
  }
}
