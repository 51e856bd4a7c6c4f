import { createServer, type Server } from "node:http";
import type { Config } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import { joinFleet, type Kek, type KekOptions } from "../fleet/kek.ts";

/** The long-running process: a member of the fleet that answers whether it is well. */

export interface Serving {
  kek: Kek;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: KekOptions): Promise<Serving> {
  const kek = await joinFleet(config, options);
  const server = createServer((request, response) => {
    const { status, body } = answer(request.method ?? "GET", request.url ?? "/", kek);
    response.writeHead(status, {
      "content-type": "application/json",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
    });
    response.end(`${JSON.stringify(body)}\n`);
  });
  try {
    const address = await listen(server, config.server);
    const stop = async () => {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      await kek.close();
    };
    return { kek, address, stop };
  } catch (thrown) {
    await kek.close();
    throw thrown;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

interface Answer {
  status: number;
  body: Record<string, unknown>;
}

/** `/healthz`: the process runs. `/readyz`: it has acknowledged and may encrypt. */
function answer(method: string, url: string, kek: Kek): Answer {
  if (method !== "GET" && method !== "HEAD") return { status: 405, body: { error: "method not allowed" } };
  switch (url.split("?")[0]) {
    case "/healthz":
      return { status: 200, body: { ok: true } };
    case "/readyz": {
      const { trouble } = kek;
      return trouble === undefined
        ? { status: 200, body: { ready: true, write_version: kek.writeVersion ?? null } }
        : { status: 503, body: { ready: false, reason: trouble } };
    }
    default:
      return { status: 404, body: { error: "not found" } };
  }
}

async function listen(server: Server, { host, port }: Config["server"]): Promise<string> {
  return await new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(
        new KekError(
          "config_invalid",
          `cannot listen on ${host}:${port} (${error.code ?? error.message})`,
          "set CERTAUTOPILOT_SERVER_LISTEN to a free address, or stop what listens there",
        ),
      );
    });
    server.listen(port, host, () => {
      const bound = server.address();
      resolve(
        typeof bound === "object" && bound !== null
          ? `http://${host.includes(":") ? `[${host}]` : host}:${bound.port}`
          : host,
      );
    });
  });
}
