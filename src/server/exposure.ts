import { isIP } from "node:net";
import type { Config } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";

/** Plaintexts and the token pass the API's connections: beyond this machine only under TLS. Pure. @throws KekError `config_invalid`. */
export function refuseOpenApi({ api, server: { host, port, tls } }: Pick<Config, "api" | "server">): void {
  if (api === undefined || tls !== undefined || isLoopback(host)) return;
  throw new KekError(
    "config_invalid",
    `the API would be open to the network without TLS: CERTAUTOPILOT_SERVER_LISTEN is ${host}:${port}`,
    "listen on 127.0.0.1, or set CERTAUTOPILOT_SERVER_TLS_CERT_FILE and CERTAUTOPILOT_SERVER_TLS_KEY_FILE",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
