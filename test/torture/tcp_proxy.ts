import { connect, createServer, type Server, type Socket } from "node:net";

/** A TCP proxy in front of one mongod: it delays what passes, or lets nothing through. */
export class TcpProxy {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #delayMs = 0;
  #cut = false;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  static async open(target: () => number): Promise<TcpProxy> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const proxy = new TcpProxy(server, (server.address() as { port: number }).port);
    server.on("connection", (client) => proxy.#carry(client, target()));
    return proxy;
  }

  /** What passes from now on takes so much longer, each way. */
  slow(delayMs: number): void {
    this.#delayMs = delayMs;
  }

  /** Connections are broken; new ones are let in. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Connections are broken, and none are let in. */
  cut(): void {
    this.#cut = true;
    this.drop();
  }

  heal(): void {
    this.#cut = false;
    this.#delayMs = 0;
  }

  close(): void {
    this.cut();
    this.#server.close();
  }

  // -------------------------------------------------------------------------------------------------------------------

  #carry(client: Socket, port: number): void {
    if (this.#cut) {
      client.destroy();
      return;
    }
    const server = connect(port, "127.0.0.1");
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.setNoDelay(true);
      let last: Promise<void> = Promise.resolve();
      let waiting = 0;
      from.on("data", (bytes) => {
        if (this.#delayMs === 0 && waiting === 0) {
          to.write(bytes);
          return;
        }
        // In order: later bytes never overtake earlier ones when the delay changes.
        const passed = new Promise<void>((resolve) => setTimeout(resolve, this.#delayMs));
        waiting += 1;
        last = Promise.all([last, passed]).then(() => {
          waiting -= 1;
          to.write(bytes);
        });
      });
      from.on("error", () => to.destroy());
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
  }
}
