import { createSocket } from "node:dgram";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";

/** A syslog receiver that reads RFC 5424, on a stream in the frames of RFC 6587, strictly: whatever is not of the form it throws at its user. */

export interface SyslogMessage {
  facility: number;
  severity: number;
  timestamp: string;
  hostname: string;
  appName: string;
  procId: string;
  msgId: string;
  elements: { [id: string]: { [name: string]: string } };
  msg: string;
}

export interface SyslogReceiver {
  port: number;
  /** Every message so far. @throws Error when anything that came was not of the form. */
  messages(): SyslogMessage[];
  stop(): Promise<void>;
}

/** @param tls PEM, for a receiver under TLS. */
export async function receiveStream(port = 0, tls?: { cert: string; key: string }): Promise<SyslogReceiver> {
  const connections: { socket: Socket; bytes: Buffer }[] = [];
  const server: Server = tls === undefined ? createServer() : createTlsServer(tls);
  server.on(tls === undefined ? "connection" : "secureConnection", (socket: Socket) => {
    const connection = { socket, bytes: Buffer.alloc(0) };
    connections.push(connection);
    socket.on("data", (chunk: Buffer) => {
      connection.bytes = Buffer.concat([connection.bytes, chunk]);
    });
    socket.on("error", () => undefined);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve());
  });
  return {
    port: (server.address() as { port: number }).port,
    messages: () => connections.flatMap(({ bytes }) => framesOf(bytes).map(parseRfc5424)),
    stop: async () => {
      for (const { socket } of connections) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

export async function receiveDatagrams(): Promise<SyslogReceiver> {
  const datagrams: Buffer[] = [];
  const socket = createSocket("udp4").on("message", (datagram) => datagrams.push(datagram));
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", () => resolve()));
  return {
    port: socket.address().port,
    messages: () => datagrams.map(parseRfc5424),
    stop: async () => void socket.close(),
  };
}

/** The grammar of RFC 5424, section 6. */
export function parseRfc5424(message: Buffer): SyslogMessage {
  const text = message.toString("latin1");
  const word = (limit: number) => `([\\x21-\\x7e]{1,${limit}})`;
  const timestamp = "(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(?:\\.\\d{1,6})?(?:Z|[+-]\\d\\d:\\d\\d))";
  const header = new RegExp(
    `^<(0|[1-9]\\d{0,2})>1 ${timestamp} ${word(255)} ${word(48)} ${word(128)} ${word(32)} (-|(?:\\[(?:[^\\]\\\\]|\\\\.)*\\])+)(?: ([\\s\\S]*))?$`,
  );
  const found = header.exec(text);
  if (found === null || Number(found[1]) > 191) throw new Error(`not RFC 5424: ${text}`);
  const [, priority, time = "", hostname = "", appName = "", procId = "", msgId = "", data = "", msg = ""] = found;
  const utf8 = msg.startsWith("\u00ef\u00bb\u00bf");
  if (!utf8 && /[^\x20-\x7e]/.test(msg)) throw new Error(`neither ASCII nor marked as UTF-8: ${text}`);
  const elements = data === "-" ? {} : Object.fromEntries(data.slice(1, -1).split("][").map(elementOf));
  return {
    facility: Math.floor(Number(priority) / 8),
    severity: Number(priority) % 8,
    timestamp: time,
    hostname,
    appName,
    procId,
    msgId,
    elements,
    msg,
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** MSG-LEN SP SYSLOG-MSG, whole ones. */
function framesOf(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = /^([1-9]\d*) /.exec(bytes.toString("latin1", at, at + 12));
    if (length === null) throw new Error(`no frame begins at ${at}: ${bytes.toString("latin1", at, at + 40)}`);
    const from = at + length[0].length;
    const to = from + Number(length[1]);
    if (to > bytes.length) break;
    frames.push(bytes.subarray(from, to));
    at = to;
  }
  return frames;
}

function elementOf(element: string): [string, { [name: string]: string }] {
  const [id = "", ...rest] = element.split(" ");
  const parameters = [...rest.join(" ").matchAll(/([^\s="\]]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"(?: |$)/g)];
  if (!/^[^\s="\]]{1,32}$/.test(id) || parameters.map((match) => match[0]).join("") !== rest.join(" "))
    throw new Error(`not an element of structured data: ${element}`);
  return [id, Object.fromEntries(parameters.map(([, name = "", value = ""]) => [name, value]))];
}
