import { MongoClient } from "mongodb";
import { openFieldEncryption } from "../src/index.ts";
import { canonicalBinary } from "../src/server/api/extended_json.ts";
import { FIELD } from "./stage.ts";

/**
 * library CLIENTS | api CLIENTS ADDRESS TOKEN | first REQUESTS ADDRESS TOKEN
 *
 * So many clients, each with one decrypt in flight. Prints decrypts a second; for `first`, milliseconds until all are answered
 * and how many were refused.
 */

/** Each session's thread compiles its own code. */
const WARM_MS = 10_000;
const MEASURED_MS = 4000;
const [mode, count = "1", address = "", token = ""] = process.argv.slice(2);

const client = new MongoClient(process.env["CERTAUTOPILOT_DATABASE_URI"] ?? "");
const records = await client
  .db(process.env["CERTAUTOPILOT_DATABASE_NAME"])
  .collection<{ _id: number; [field: string]: unknown }>(FIELD.collection)
  .find({}, { promoteValues: false, promoteBuffers: false })
  .limit(500)
  .toArray();
await client.close();

if (mode === "library") {
  const kek = await openFieldEncryption();
  const envelopes = records.map((record) => record[FIELD.path]);
  await atOnce(async (at) => {
    await kek.decrypt(envelopes[at], { collection: FIELD.collection, id: Number(records[at]?._id), field: FIELD.path });
  });
  await kek.close();
} else {
  const requests = records.map((record) => requestOf(Number(record._id), record[FIELD.path] as Envelope));
  const post = async (at: number, connection: Connection) => await connection.ask(requests[at] as Buffer);
  if (mode === "api") {
    const connections = await Promise.all(Array.from({ length: Number(count) }, () => connect()));
    await atOnce(async (at, slot) => {
      const status = await post(at, connections[slot] as Connection);
      if (status !== 200) throw new Error(`the API answered ${status}`);
    });
  } else {
    const connections = await Promise.all(Array.from({ length: Number(count) }, () => connect()));
    const began = performance.now();
    const statuses = await Promise.all(connections.map((connection, at) => post(at % requests.length, connection)));
    const refused = statuses.filter((status) => status !== 200).length;
    process.stdout.write(`${Math.round(performance.now() - began)} ${refused}\n`);
  }
  process.exit(0);
}

// ---------------------------------------------------------------------------------------------------------------------

async function atOnce(work: (record: number, slot: number) => Promise<void>): Promise<void> {
  let done = 0;
  const began = performance.now();
  const slot = async (_: unknown, number: number) => {
    for (let at = number; performance.now() < began + WARM_MS + MEASURED_MS; at += 1) {
      await work(at % records.length, number);
      if (performance.now() >= began + WARM_MS) done += 1;
    }
  };
  await Promise.all(Array.from({ length: Number(count) }, slot));
  process.stdout.write(`${((done * 1000) / (performance.now() - began - WARM_MS)).toFixed(0)}\n`);
}

type Bytes = Parameters<typeof canonicalBinary>[0];

interface Envelope {
  format: unknown;
  provider: string;
  kek_version: unknown;
  wrapped_dek: Bytes;
  nonce: Bytes;
  ciphertext: Bytes;
}

function requestOf(id: number, envelope: Envelope): Buffer {
  const body = JSON.stringify({
    collection: FIELD.collection,
    id,
    field: FIELD.path,
    envelope: {
      format: Number(envelope.format),
      provider: envelope.provider,
      kek_version: Number(envelope.kek_version),
      wrapped_dek: canonicalBinary(envelope.wrapped_dek),
      nonce: canonicalBinary(envelope.nonce),
      ciphertext: canonicalBinary(envelope.ciphertext),
    },
  });
  const head = [
    "POST /v1/decrypt HTTP/1.1",
    `Host: ${new URL(address).host}`,
    `Authorization: Bearer ${token}`,
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  return Buffer.from(`${head.join("\r\n")}\r\n\r\n${body}`);
}

interface Connection {
  /** @returns the status. */
  ask(request: Buffer): Promise<number>;
}

/** Little more than the bytes: clients share the processors with what is measured. */
async function connect(): Promise<Connection> {
  const { hostname, port } = new URL(address);
  let received = Buffer.alloc(0);
  let answered: (status: number) => void = () => {};
  let failed: (error: Error) => void = () => {};
  let unsent: Buffer | undefined;
  const socket = await Bun.connect({
    hostname: hostname.replace(/[[\]]/g, ""),
    port: Number(port),
    socket: {
      data(_, chunk) {
        received = received.length === 0 ? Buffer.from(chunk) : Buffer.concat([received, chunk]);
        const end = received.indexOf("\r\n\r\n");
        if (end < 0) return;
        const head = received.toString("latin1", 0, end);
        const length = Number(/content-length: *(\d+)/i.exec(head)?.[1] ?? 0);
        if (received.length < end + 4 + length) return;
        received = Buffer.alloc(0);
        answered(Number(head.slice(9, 12)));
      },
      drain(socket) {
        if (unsent !== undefined) unsent = unsent.subarray(socket.write(unsent));
        if (unsent?.length === 0) unsent = undefined;
      },
      close: () => failed(new Error("the API closed the connection")),
      error: (_, error) => failed(error),
    },
  });
  return {
    ask: (request) =>
      new Promise((resolve, reject) => {
        answered = resolve;
        failed = reject;
        const written = socket.write(request);
        if (written < request.length) unsent = request.subarray(written);
      }),
  };
}
