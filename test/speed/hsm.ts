import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Binary, Int32, MongoClient } from "mongodb";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { dekAadOf, placeOf } from "../../src/envelope/aad.ts";
import { newDek } from "../../src/envelope/field_cipher.ts";
import { Gate, LoginMemory } from "../../src/providers/pkcs11/gate.ts";
import { TokenTally } from "../../src/providers/pkcs11/tally.ts";
import type { Provider, ProviderRecipe } from "../../src/providers/provider.ts";
import { makeProvider, type Token } from "../../src/providers/registry.ts";
import { hsmBuild, PIN, type Shim, SOFTHSM, shimOver } from "../harness/token.ts";

/**
 * How fast a rotation is with keys in a token, beside what the token can do alone and what the `env` provider does with the
 * same records, all in one run: SoftHSM bare, and SoftHSM with a millisecond added to each call.
 */

const ROOT = join(import.meta.dir, "../..");
const BINARY = join(ROOT, "dist/certautopilot");
const records = Number(process.argv[2] ?? 40_000);
/** bare, slow (a millisecond added to each operation, then to each call), each (to each call); all of them without it. */
const only = process.argv[3];
const rounds = Number(process.argv[4] ?? 3);
const SESSIONS = 32;

const directory = mkdtempSync(join(tmpdir(), "certautopilot-speed-"));
const mongod = await startPrivateMongod(directory);
const client = new MongoClient(mongod.uri);
// scripts/speed-hsm has made the token, and this process's environment names it.
const LABEL = "speed";
const shim = shimOver(process.env["SHIM_CONTROL"] ?? "");
const keks = { 1: randomBytes(32), 2: randomBytes(32) };
let number = 0;
try {
  const rates: Record<string, number[]> = {};
  const note = (name: string, rate: number) => {
    rates[name] ??= [];
    rates[name].push(rate);
  };
  for (let round = 1; round <= rounds; round += 1) {
    if (only === undefined || only === "bare") {
      note("env", (await rotation("env", {})).recordsPerS);
      note("bare", (await rotation("bare", { latencyUs: 0 })).recordsPerS);
    }
    for (const slowInit of only === "each" ? [1] : [0, 1]) {
      if (only === "bare") continue;
      const which = slowInit === 1 ? "each call" : "each operation";
      const orders = { latencyUs: 1000, slowInit };
      note(`rewrap, ${which}`, (await rotation("slow", orders)).callsPerS);
      note(`token, ${which}`, alone(orders));
    }
  }
  const median = (name: string) => [...(rates[name] ?? [])].sort((a, b) => a - b)[rounds >> 1] ?? Number.NaN;
  console.log(`medians of ${rounds} rounds:`);
  for (const name of Object.keys(rates)) console.log(`  ${name}: ${Math.round(median(name))}`);
  if (rates["bare"] !== undefined)
    console.log(`  SoftHSM bare / env, records/s: ${(median("bare") / median("env")).toFixed(2)} (at least 0.6)`);
  for (const which of ["each operation", "each call"]) {
    if (rates[`token, ${which}`] === undefined) continue;
    const ratio = median(`rewrap, ${which}`) / median(`token, ${which}`);
    console.log(
      `  rewrap / token alone, 1 ms added to ${which}, ${SESSIONS} sessions, calls/s: ${ratio.toFixed(2)} (at least 0.85)`,
    );
  }
} finally {
  await client.close();
  await mongod.stop();
  rmSync(directory, { recursive: true, force: true });
}

// ---------------------------------------------------------------------------------------------------------------------

type Orders = Parameters<Shim["set"]>[0];

/** The token driven by a loop in C, as many threads as sessions. */
function alone(orders: Orders): number {
  shim.set(orders);
  const words = [hsmBuild("shim.so"), LABEL, "certautopilot-kek-v1", String(SESSIONS), "3"];
  const rate = Number(execFileSync(hsmBuild("drive"), words, { input: `${PIN}\n`, encoding: "utf8" }));
  shim.set({ latencyUs: 0, slowInit: 0 });
  console.log(`  the token alone: ${Math.round(rate)} calls/s`);
  return rate;
}

async function rotation(kind: "env" | "bare" | "slow", orders: Orders) {
  number += 1;
  const name = `speed_${number}`;
  const db = client.db(name);
  const env = kind === "env";
  const module = kind === "slow" ? hsmBuild("shim.so") : SOFTHSM;
  const variables = {
    ...(process.env as Record<string, string>),
    CERTAUTOPILOT_DATABASE_URI: mongod.uri,
    CERTAUTOPILOT_DATABASE_NAME: name,
    CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-of-this-run",
    CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
    CERTAUTOPILOT_FIELDS: "secrets:value",
    CERTAUTOPILOT_FLEET_DRAIN_MS: "0",
    ...(env
      ? {
          CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: keks[1].toString("hex"),
          CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: keks[2].toString("hex"),
        }
      : {
          CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11",
          CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: module,
          CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: LABEL,
          CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: PIN,
        }),
  };
  const declare = (version: number) => ({ ...variables, CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(version) });
  if (!env) for (const version of [1, 2]) removeKey(version);
  if (!env) run(["kek", "pkcs11-init", "--version=1"], declare(1));
  await activate(declare(1));
  if (!env) run(["kek", "pkcs11-init", "--version=2"], declare(1));
  await seed(db, env, module);
  const serving = await serve(declare(2));
  shim.set(orders);
  const began = performance.now();
  const flags = kind === "slow" ? [`--hsm-sessions=${SESSIONS}`] : [];
  const rotating = spawn(BINARY, ["kek", "rotate", "--to-version=2", ...flags], {
    env: declare(2),
    stdio: ["ignore", "ignore", "inherit"],
  });
  const mongoBefore = cpuOf(mongod.pid);
  let own = 0;
  const sampler = setInterval(() => {
    try {
      own = cpuOf(rotating.pid as number);
    } catch {
      // It has ended.
    }
  }, 50);
  const ended = new Promise<number | null>((resolve) => rotating.once("close", resolve));
  const windows = kind === "slow" ? await callsWhile(ended) : [];
  const code = await ended;
  shim.set({ latencyUs: 0, slowInit: 0 });
  const whole = (performance.now() - began) / 1000;
  serving.kill();
  if (code !== 0) throw new Error(`rotate ended with ${code}`);
  clearInterval(sampler);
  console.log(
    `   processor time a record, in us: rotate ${((own / records) * 1e6).toFixed(0)} mongod ${(((cpuOf(mongod.pid) - mongoBefore) / records) * 1e6).toFixed(0)}`,
  );
  const doc = await db.collection("kek_rotations").findOne({});
  const spent = (doc?.["phase_times"]["3"].getTime() - doc?.["phase_times"]["2"].getTime()) / 1000;
  const recordsPerS = records / spent;
  const middle = windows.slice(1, -1).sort((a, b) => a - b);
  const callsPerS = middle[Math.floor(middle.length / 2)] ?? Number.NaN;
  const calls =
    kind === "slow"
      ? `, ${Math.round(callsPerS)} calls/s in the middle, ${Math.round(6 * recordsPerS)} over all of phase 2`
      : "";
  console.log(
    `  ${kind}: ${records} records, phase 2 took ${spent.toFixed(1)} s of ${whole.toFixed(1)} s: ${Math.round(recordsPerS)} records/s${calls}`,
  );
  await db.dropDatabase();
  return { recordsPerS, callsPerS };
}

/** Calls a second, one figure a second, counted by the shim: C_EncryptInit, C_Encrypt, C_DecryptInit, C_Decrypt. */
async function callsWhile(ended: Promise<unknown>): Promise<number[]> {
  const windows: number[] = [];
  let running = true;
  ended.then(() => {
    running = false;
  });
  const count = () => 2 * (shim.get("encrypts") + shim.get("decrypts"));
  let [last, at] = [count(), performance.now()];
  while (running) {
    await Bun.sleep(1000);
    const [now, time] = [count(), performance.now()];
    const rate = ((now - last) / (time - at)) * 1000;
    if (rate > 1000) windows.push(rate);
    [last, at] = [now, time];
  }
  return windows;
}

function run(words: string[], env: Record<string, string>): void {
  execFileSync(BINARY, words, { env, stdio: ["ignore", "ignore", "inherit"] });
}

function removeKey(version: number): void {
  const words = [
    "--module",
    SOFTHSM,
    "--token-label",
    LABEL,
    "--login",
    "--pin",
    PIN,
    "--delete-object",
    "--type",
    "secrkey",
    "--label",
    `certautopilot-kek-v${version}`,
  ];
  try {
    execFileSync("pkcs11-tool", words, { stdio: "ignore", env: process.env as Record<string, string> });
  } catch {
    // There was none.
  }
}

async function serve(env: Record<string, string>) {
  const child = spawn(BINARY, ["serve"], { env, stdio: ["ignore", "ignore", "pipe"] });
  await new Promise<void>((resolve) =>
    child.stderr.on("data", (text) => String(text).includes("is ready") && resolve()),
  );
  return child;
}

async function activate(env: Record<string, string>): Promise<void> {
  const child = await serve(env);
  child.kill();
  await new Promise((resolve) => child.once("close", resolve));
}

async function seed(db: ReturnType<MongoClient["db"]>, env: boolean, modulePath: string): Promise<void> {
  const install = await db.collection("kek_install").findOne({});
  const token = {
    modulePath,
    tokenLabel: LABEL,
    pin: PIN,
    pinFrom: "this run",
    ownIvs: false,
    gate: new Gate().memory,
    login: new LoginMemory().memory,
    tally: new TokenTally().memory,
  };
  const recipe: ProviderRecipe = env
    ? { provider: "env", keks: { 1: { setting: "v1", hex: keks[1].toString("hex") } }, secretsFile: undefined }
    : { provider: "pkcs11", token, sessions: 4 };
  const provider: Provider | Token = makeProvider(recipe);
  await provider.load(1);
  const aad = dekAadOf(install?.["install_id"], provider.name, 1, "secrets", "value");
  const BATCH = 2000;
  for (let start = 0; start < records; start += BATCH) {
    const ids = Array.from({ length: Math.min(BATCH, records - start) }, (_, index) => start + index);
    const documents = await Promise.all(
      ids.map(async (id) => ({
        _id: id as never,
        value: {
          format: new Int32(1),
          provider: provider.name,
          kek_version: new Int32(1),
          wrapped_dek: new Binary(await provider.wrap(newDek(), aad(placeOf("secrets", id, "value").idBson), 1), 0),
          nonce: new Binary(randomBytes(12), 0),
          ciphertext: new Binary(randomBytes(1880), 0),
        },
      })),
    );
    await db.collection("secrets").insertMany(documents, { ordered: false });
  }
  await provider.close();
}

/** Seconds of processor time that a process has used. */
function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const TICKS_A_SECOND = 100;
  return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND;
}
