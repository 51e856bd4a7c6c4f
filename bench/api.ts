import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FieldEncryption, FieldPlace, StoredEnvelope } from "../src/index.ts";
import { withLibrary } from "./library.ts";
import { type Line, line, percentile, ratio } from "./line.ts";
import { quietlyWhole } from "./rounds.ts";
import { seed } from "./seed.ts";
import { FIELD, type Stage, say, serve, variablesOf } from "./stage.ts";

/** Values of 1 KiB sealed and opened over the API on loopback, beside the library in its own process. */

const TOPIC = "The API on loopback beside the library, 1 KiB";
const DATABASE = "api";
const CALLS_AT_ONCE = 4;
const SIZES = [1, 100, 1000];
const WARM_MS = 1000;
const MEASURED_MS = 2000;
const PLAINTEXT = randomBytes(1024);
const TOKEN = randomBytes(24).toString("hex");

type Call = () => Promise<void>;

export async function api(stage: Stage, rounds: number): Promise<Line[]> {
  say("api: values sealed and opened over HTTP");
  await seed(stage, DATABASE, 1);
  const tokenFile = join(stage.directory, "api-token");
  writeFileSync(tokenFile, TOKEN, { mode: 0o600 });
  const serving = await serve({ ...variablesOf(stage, DATABASE, 1), CERTAUTOPILOT_API_TOKEN_FILE: tokenFile });
  try {
    return await withLibrary(stage, DATABASE, async (kek) => {
      const lines: Line[] = [];
      for (const size of SIZES) lines.push(...(await ofSize(kek, serving.address, size, rounds)));
      return lines;
    });
  } finally {
    await serving.stop();
    await stage.client.db(DATABASE).dropDatabase();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function ofSize(kek: FieldEncryption, address: string, size: number, rounds: number): Promise<Line[]> {
  const places = Array.from({ length: size }, (_, id) => ({ collection: FIELD.collection, id, field: FIELD.path }));
  const sealed = await Promise.all(places.map((place) => kek.encrypt(PLAINTEXT, place)));
  const post = client(address);
  const { items, envelope } = await post("encrypt", bodyOf(sealing(places)));
  const envelopes = items?.map((item) => item.envelope) ?? [envelope];
  const opening = places.map((place, at) => ({ ...place, envelope: envelopes[at] }));
  const works: Record<string, [library: Call, api: Call]> = {
    encrypt: [librarySeals(kek, places), async () => void (await post("encrypt", bodyOf(sealing(places))))],
    decrypt: [libraryOpens(kek, places, sealed), async () => void (await post("decrypt", bodyOf(opening)))],
  };
  const lines: Line[] = [];
  for (const [name, [library, overHttp]] of Object.entries(works)) {
    const rates = { library: [] as number[], api: [] as number[], p99: [] as number[] };
    for (let round = 0; round < rounds; round += 1) {
      const [alone, { perS, p99 }] = await quietlyWhole(async () => [
        await measured(library, size),
        await measured(overHttp, size),
      ]);
      rates.library.push(alone.perS);
      rates.api.push(perS);
      rates.p99.push(p99);
    }
    const of = `${name}, ${size} a call`;
    lines.push(
      line(TOPIC, `${of}: library`, "values/s", rates.library),
      line(TOPIC, `${of}: API`, "values/s", rates.api),
      line(TOPIC, `${of}: API / library`, "×", ratio(rates.api, rates.library)),
      line(TOPIC, `${of}: API, p99`, "ms", rates.p99),
    );
  }
  return lines;
}

interface Answer {
  detail?: string;
  envelope?: unknown;
  items?: { envelope: unknown }[];
}

/** The client's own work, making and reading JSON, is part of a call. */
function client(address: string): (path: string, body: object) => Promise<Answer> {
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  return async (path, body) => {
    const response = await fetch(`${address}/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    const answer = (await response.json()) as Answer;
    if (response.status !== 200) throw new Error(`${path}: ${response.status} ${answer.detail}`);
    return answer;
  };
}

function sealing(places: FieldPlace[]): object[] {
  return places.map((place) => ({ ...place, plaintext: PLAINTEXT.toString("base64") }));
}

function bodyOf(items: object[]): object {
  return items.length === 1 ? (items[0] as object) : { items };
}

function librarySeals(kek: FieldEncryption, places: FieldPlace[]): Call {
  return async () => void (await Promise.all(places.map((place) => kek.encrypt(PLAINTEXT, place))));
}

function libraryOpens(kek: FieldEncryption, places: FieldPlace[], sealed: StoredEnvelope[]): Call {
  return async () => void (await Promise.all(places.map((place, at) => kek.decrypt(sealed[at], place))));
}

async function measured(call: Call, size: number): Promise<{ perS: number; p99: number }> {
  const times: number[] = [];
  const run = async (forMs: number) => {
    const began = performance.now();
    const worker = async () => {
      while (performance.now() < began + forMs) {
        const called = performance.now();
        await call();
        times.push(performance.now() - called);
      }
    };
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, worker));
    return performance.now() - began;
  };
  await run(WARM_MS);
  times.length = 0;
  const took = await run(MEASURED_MS);
  return { perS: (times.length * size * 1000) / took, p99: percentile(times, 0.99) };
}
