import { afterAll } from "bun:test";
import { connect, createServer, type Server, type Socket } from "node:net";

/** A TCP proxy in front of a mongod. It holds back what holds a text, with all that follows on that connection, until it is let go. */
export class HoldingProxy {
  readonly uri: string;
  readonly #sockets = new Set<Socket>();
  readonly #marker: Buffer;
  #waiting: (() => void)[] = [];
  #let = false;
  /** How many messages have been held back. */
  held = 0;
  /** How many answers said that a document failed validation, as MongoDB words code 121. */
  rejected = 0;

  private constructor(server: Server, marker: string) {
    this.#marker = Buffer.from(marker);
    this.uri = `mongodb://127.0.0.1:${(server.address() as { port: number }).port}/?directConnection=true`;
  }

  /** Closed after the test. */
  static async open(target: string, marker: string): Promise<HoldingProxy> {
    const { hostname, port } = new URL(target);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const proxy = new HoldingProxy(server, marker);
    server.on("connection", (client) => proxy.#carry(client, connect(Number(port), hostname)));
    afterAll(() => {
      for (const socket of proxy.#sockets) socket.destroy();
      server.close();
    });
    return proxy;
  }

  /** Everything passes from now on. */
  letGo(): void {
    this.#let = true;
    for (const send of this.#waiting.splice(0)) send();
  }

  // -------------------------------------------------------------------------------------------------------------------

  #carry(client: Socket, server: Socket): void {
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
    let last: Promise<void> | undefined;
    client.on("data", (bytes: Buffer) => {
      if (!this.#let && last === undefined && bytes.includes(this.#marker)) {
        this.held += 1;
        last = new Promise((resolve) => this.#waiting.push(resolve));
      }
      if (last === undefined) server.write(bytes);
      else last = last.then(() => void server.write(bytes));
    });
    server.on("data", (bytes: Buffer) => {
      if (bytes.includes("Document failed validation")) this.rejected += 1;
      client.write(bytes);
    });
  }
}
