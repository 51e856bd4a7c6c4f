import { KekError } from "../errors/errors.ts";

/** The one place that knows which runtime listens: Bun and Deno bring an HTTP server each, and it hands on requests as `fetch` has them. */

export interface Where {
  /** `host` and `port`, or the path of a Unix socket. */
  on: { host: string; port: number } | { socket: string };
  tls?: { cert: string; key: string } | undefined;
}

export interface Listener {
  /** For people: a URL, or `unix:` and a path. */
  address: string;
  /** Closes connections too, in the middle of an answer if need be. */
  stop(): Promise<void>;
}

export type Answer = (request: Request) => Response | Promise<Response>;

/** @throws KekError `config_invalid` when the address is not free, or not ours. */
export function listen({ on, tls }: Where, answer: Answer): Listener {
  try {
    return "Deno" in globalThis ? listenOnDeno({ on, tls }, answer) : listenOnBun({ on, tls }, answer);
  } catch (thrown) {
    const what = "socket" in on ? `unix:${on.socket}` : `${on.host}:${on.port}`;
    const { code, message } = thrown as NodeJS.ErrnoException;
    throw new KekError(
      "config_invalid",
      `cannot listen on ${what} (${code ?? message})`,
      "socket" in on
        ? "set CERTAUTOPILOT_API_SOCKET to a path in a directory of this user's own"
        : "set CERTAUTOPILOT_SERVER_LISTEN to a free address, or stop what listens there",
      { cause: thrown },
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function addressOf({ on, tls }: Where, port: number | undefined): string {
  if ("socket" in on) return `unix:${on.socket}`;
  return `${tls === undefined ? "http" : "https"}://${on.host.includes(":") ? `[${on.host}]` : on.host}:${port}`;
}

/** How long a connection may be idle between requests. Bun does not apply it to one that has asked nothing yet, nor to one that does not read. */
const IDLE_S = 60;

/** On a Unix socket Bun takes no timeout for one request, so there is none at all. Its types do not know the option, and it counts. */
const UNLIMITED = { idleTimeout: 0 } as object;

function listenOnBun({ on, tls }: Where, answer: Answer): Listener {
  const common = {
    ...(tls === undefined ? {} : { tls }),
    // Whoever reads a body has a limit for it, and says so when it is passed.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    async fetch(request: Request, bun: Bun.Server<undefined>): Promise<Response> {
      // A token may take long, and whoever works has limits of his own: without an answer nobody would know what became of it.
      bun.timeout(request, 0);
      const response = await answer(request);
      const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
      if (!isStream) bun.timeout(request, IDLE_S);
      return response;
    },
  };
  const server =
    "socket" in on
      ? Bun.serve({ ...common, unix: on.socket, ...UNLIMITED })
      : Bun.serve({ ...common, hostname: on.host, port: on.port, idleTimeout: IDLE_S });
  return { address: addressOf({ on, tls }, server.port), stop: async () => await server.stop(true) };
}

/** As much of Deno's server as is used here. */
interface DenoServer {
  addr: { port?: number };
  shutdown(): Promise<void>;
}
interface DenoServe {
  serve(options: Record<string, unknown>, handler: Answer): DenoServer;
}

function listenOnDeno({ on, tls }: Where, answer: Answer): Listener {
  const abort = new AbortController();
  const where = "socket" in on ? { path: on.socket } : { hostname: on.host, port: on.port };
  const options = { ...where, ...tls, signal: abort.signal, onListen: () => undefined };
  const server = (globalThis as unknown as { Deno: DenoServe }).Deno.serve(options, answer);
  return {
    address: addressOf({ on, tls }, server.addr.port),
    stop: async () => abort.abort(),
  };
}
