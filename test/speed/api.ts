import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { type FieldPlace, openKek, type StoredEnvelope } from "../../src/index.ts";

/** Values of 1 KiB sealed and opened over the API and by the library in this process, one at a time and in batches, in one run. */

const BINARY = join(import.meta.dir, "../../dist/certautopilot");
const seconds = Number(process.argv[2] ?? 3);
const CALLS_AT_ONCE = 4;
const SIZES = [1, 100, 1000];
const PLAINTEXT = randomBytes(1024);
const TOKEN = randomBytes(24).toString("hex");
const kekHex = randomBytes(32).toString("hex");

type Call = () => Promise<void>;

const directory = mkdtempSync(join(tmpdir(), "certautopilot-speed-"));
const mongod = await startPrivateMongod(directory);
const kek = await openKek({
  database: { uri: mongod.uri, name: "speed" },
  encryption: { provider: "env", currentVersion: 1, env: { keks: { 1: { setting: "KEK_V1", hex: kekHex } } } },
  secretsFile: undefined,
  instanceName: "library",
  rotationPeriodMs: 365 * 86_400_000,
  server: { host: "127.0.0.1", port: 0, tls: undefined, hosts: [] },
  api: undefined,
  audit: { secret: "audit-secret-of-this-run", file: undefined },
  fleet: { beatMs: 5000, leaseMs: 30_000, evictionMs: 60_000, drainMs: 5000 },
  fields: [{ collection: "secrets", path: "value" }],
});
const serving = await serve();
try {
  console.log(`${CALLS_AT_ONCE} calls at once, ${seconds} s a line, values of ${PLAINTEXT.length} bytes\n`);
  console.log("| work | values a call | library, values/s | p50 ms | p99 ms | API, values/s | p50 ms | p99 ms |");
  console.log("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
  for (const size of SIZES) {
    const places = Array.from({ length: size }, (_, id) => ({ collection: "secrets", id, field: "value" }));
    const sealed = await Promise.all(places.map((place) => kek.encrypt(PLAINTEXT, place)));
    const { body } = await post("encrypt", bodyOf(places.map((place) => ({ ...place, plaintext: base64() }))));
    const envelopes: unknown[] =
      size === 1 ? [body.envelope] : body.items.map((item: { envelope: unknown }) => item.envelope);
    const lines = {
      encrypt: [
        librarySeals(places),
        apiCall("encrypt", () => places.map((place) => ({ ...place, plaintext: base64() }))),
      ],
      decrypt: [
        libraryOpens(places, sealed),
        apiCall("decrypt", () => places.map((place, at) => ({ ...place, envelope: envelopes[at] }))),
      ],
    } as const;
    for (const [work, [library, api]] of Object.entries(lines)) {
      const cells = [await measured(library, size), await measured(api, size)];
      const figures = cells.flatMap(({ perS, p50, p99 }) => [
        Math.round(perS).toLocaleString("en"),
        p50.toFixed(1),
        p99.toFixed(1),
      ]);
      console.log(`| ${work} | ${size} | ${figures.join(" | ")} |`);
    }
  }
} finally {
  serving.child.kill("SIGTERM");
  await serving.ended;
  await kek.close();
  await mongod.stop();
  rmSync(directory, { recursive: true, force: true });
}

// ---------------------------------------------------------------------------------------------------------------------

function base64(): string {
  return PLAINTEXT.toString("base64");
}

function librarySeals(places: FieldPlace[]): Call {
  return async () => {
    await Promise.all(places.map((place) => kek.encrypt(PLAINTEXT, place)));
  };
}

function libraryOpens(places: FieldPlace[], sealed: StoredEnvelope[]): Call {
  return async () => {
    await Promise.all(places.map((place, at) => kek.decrypt(sealed[at], place)));
  };
}

/** The client's own work, making and reading JSON, is part of the call. */
function apiCall(path: string, items: () => object[]): Call {
  return async () => {
    const { status, body } = await post(path, bodyOf(items()));
    if (status !== 200) throw new Error(`${path}: ${status} ${body.detail}`);
  };
}

function bodyOf(items: object[]): object {
  return items.length === 1 ? (items[0] as object) : { items };
}

async function post(path: string, body: object) {
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  const response = await fetch(`${serving.address}/v1/${path}`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
  });
  // biome-ignore lint/suspicious/noExplicitAny: it is the API's own answer
  return { status: response.status, body: (await response.json()) as any };
}

/** Values a second, and how long a call takes, after a second to warm up. */
async function measured(call: Call, size: number) {
  const times: number[] = [];
  const run = async (forMs: number) => {
    const until = performance.now() + forMs;
    const lane = async () => {
      while (performance.now() < until) {
        const began = performance.now();
        await call();
        times.push(performance.now() - began);
      }
    };
    const began = performance.now();
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, lane));
    return performance.now() - began;
  };
  await run(1000);
  times.length = 0;
  const took = await run(seconds * 1000);
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] as number;
  return { perS: (times.length * size * 1000) / took, p50: at(0.5), p99: at(0.99) };
}

async function serve() {
  const tokenFile = join(directory, "token");
  writeFileSync(tokenFile, TOKEN, { mode: 0o600 });
  const env = {
    PATH: process.env["PATH"] ?? "",
    CERTAUTOPILOT_DATABASE_URI: mongod.uri,
    CERTAUTOPILOT_DATABASE_NAME: "speed",
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-this-run",
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
    CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: "1",
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: kekHex,
    CERTAUTOPILOT_API_TOKEN_FILE: tokenFile,
  };
  const child = spawn(BINARY, ["serve"], { env, stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const address = await new Promise<string>((resolve, reject) => {
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      const found = / is ready on (\S+?),/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    });
    ended.then(() => reject(new Error(said)));
  });
  return { child, ended, address };
}
