import { isIP } from "node:net";
import type { Config } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import { SILENT } from "../errors/log.ts";
import { joinFleet, type Kek, type KekOptions } from "../fleet/kek.ts";
import type { ApiOptions } from "./api/api.ts";
import { BearerToken } from "./api/token.ts";
import { appOf } from "./app.ts";
import { type Listener, listen } from "./listener.ts";
import { readTls } from "./tls_files.ts";
import { listenOnSocket } from "./unix_socket.ts";

/** The long-running process: a member of the fleet that answers whether it is well, and encrypts for others if it is told to. */

export interface Serving {
  kek: Kek;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: KekOptions): Promise<Serving> {
  const log = options.log ?? SILENT;
  const { host, port } = config.server;
  refuseOpenApi(config);
  const tls = config.server.tls === undefined ? undefined : readTls(config.server.tls);
  const token = config.api === undefined ? undefined : new BearerToken(config.api.tokenFile, log);
  const kek = await joinFleet(config, options);
  const listeners: Listener[] = [];
  const stop = async () => {
    for (const listener of listeners) await listener.stop();
    await kek.close();
  };
  try {
    const api: ApiOptions | undefined =
      token === undefined ? undefined : { kek, token, log, uri: config.database.uri, hosts: config.server.hosts };
    const app = appOf(kek, api);
    const listener = listen({ on: { host, port }, tls }, app.fetch);
    listeners.push(listener);
    if (config.api?.socket !== undefined) {
      listeners.push(await listenOnSocket(config.api.socket, app.fetch));
      log.info(`the API answers on unix:${config.api.socket} too`);
    }
    return { kek, address: listener.address, stop };
  } catch (thrown) {
    await stop();
    throw thrown;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Plaintexts and the token pass the API's connections: beyond this machine only under TLS. */
function refuseOpenApi({ api, server: { host, port, tls } }: Config): void {
  if (api === undefined || tls !== undefined || isLoopback(host)) return;
  throw new KekError(
    "config_invalid",
    `the API would be open to the network without TLS: CERTAUTOPILOT_SERVER_LISTEN is ${host}:${port}`,
    "listen on 127.0.0.1, or set CERTAUTOPILOT_SERVER_TLS_CERT_FILE and CERTAUTOPILOT_SERVER_TLS_KEY_FILE",
  );
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
