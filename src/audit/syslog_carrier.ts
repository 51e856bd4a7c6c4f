import type { Buffer } from "node:buffer";
import { createSocket, type Socket as Datagrams } from "node:dgram";
import { readFileSync } from "node:fs";
import { connect, isIP, isIPv6, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { SyslogTarget } from "../config/config.ts";
import { systemCertificates } from "../config/system_certificates.ts";
import { framed } from "./syslog_message.ts";

/** How a message gets to a syslog receiver. Each failure is thrown: what to do about it is the sink's business. */
export interface Carrier {
  /** Done once the system has taken it; syslog knows no receipt. */
  send(message: Buffer): Promise<void>;
  close(): Promise<void>;
}

export function carrierTo(target: SyslogTarget): Carrier {
  return target.transport === "udp" ? new DatagramCarrier(target) : new StreamCarrier(target);
}

// ---------------------------------------------------------------------------------------------------------------------

/** A receiver that takes nothing for so long is unavailable. */
const PATIENCE_MS = 5000;
/** What fits into one UDP datagram, less the headers of IP and UDP. */
const DATAGRAM_BYTES = 65_507;

class DatagramCarrier implements Carrier {
  readonly #target: SyslogTarget;
  #socket: Datagrams | undefined;

  constructor(target: SyslogTarget) {
    this.#target = target;
  }

  async send(message: Buffer): Promise<void> {
    const { host, port } = this.#target;
    // Cut short it is no JSON any more, but who did what when stands at its beginning.
    const fitting = message.subarray(0, DATAGRAM_BYTES);
    this.#socket ??= createSocket(isIPv6(host) ? "udp6" : "udp4").on("error", () => this.#drop());
    const socket = this.#socket;
    await new Promise<void>((resolve, reject) => {
      socket.send(fitting, port, host, (error) => (error ? reject(error) : resolve()));
    });
  }

  async close(): Promise<void> {
    this.#drop();
  }

  #drop(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
}

/** TCP, or TLS over it. The connection is kept, and made again when it is lost. */
class StreamCarrier implements Carrier {
  readonly #target: SyslogTarget;
  #socket: Socket | undefined;

  constructor(target: SyslogTarget) {
    this.#target = target;
  }

  async send(message: Buffer): Promise<void> {
    const socket = this.#socket ?? (await this.#connect());
    await this.#settled(socket, "takes nothing", (resolve, reject) => {
      socket.write(framed(message), (error) => (error ? reject(error) : resolve()));
    });
  }

  async close(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    // Until the receiver has seen the end: what is on its way then has arrived.
    await this.#settled(socket, "does not close", (resolve) => {
      socket.once("close", () => resolve());
      socket.end();
      socket.resume();
    }).catch(() => undefined);
    socket.destroy();
  }

  async #connect(): Promise<Socket> {
    const { transport, host, port, caFile } = this.#target;
    const trusted = caFile === undefined ? systemCertificates() : readFileSync(caFile, "utf8");
    const ca = trusted === undefined ? {} : { ca: trusted };
    // A name for SNI must not be an address (RFC 6066).
    const socket =
      transport === "tls"
        ? connectTls({ host, port, ...ca, ...(isIP(host) === 0 ? { servername: host } : {}) })
        : connect({ host, port });
    await this.#settled(socket, "does not answer", (resolve) => {
      socket.once(transport === "tls" ? "secureConnect" : "connect", () => resolve());
    });
    this.#socket = socket;
    const forget = () => {
      if (this.#socket === socket) this.#socket = undefined;
    };
    socket.on("error", forget).on("close", forget);
    // Receivers say nothing; without a reader their end of the connection would not be seen.
    socket.resume();
    return socket;
  }

  /** @throws Error when the socket fails meanwhile, or nothing comes of it; then it is thrown away. */
  async #settled(
    socket: Socket,
    lazy: string,
    work: (resolve: () => void, reject: (error: Error) => void) => void,
  ): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let fail: ((error: Error) => void) | undefined;
    let closed: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        fail = reject;
        closed = () => reject(new Error("the connection was closed"));
        timer = setTimeout(() => reject(new Error(`it ${lazy}`)), PATIENCE_MS);
        work(resolve, reject);
        socket.on("error", fail).on("close", closed);
      });
    } catch (thrown) {
      // A late error of a socket thrown away is nobody's business any more.
      socket.on("error", () => undefined).destroy();
      if (this.#socket === socket) this.#socket = undefined;
      throw thrown;
    } finally {
      clearTimeout(timer);
      if (fail !== undefined) socket.off("error", fail);
      if (closed !== undefined) socket.off("close", closed);
    }
  }
}
