import { execFileSync, spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { hsmBuild, PIN, SOFTHSM, type TestToken, testToken } from "../test/harness/token.ts";
import { type Line, line, median, ratio } from "./line.ts";
import { NO_DRAIN, rotate, thereAndBack } from "./rotation.ts";
import { seed } from "./seed.ts";
import { type Stage, say, serve, succeed, type Variables, variablesOf } from "./stage.ts";

/** A rotation with keys in a token: SoftHSM bare beside keys in memory, and SoftHSM made slow beside a loop in C that drives it. */

const TOPIC = "Keys in a token (SoftHSM)";
const BARE_RECORDS = 40_000;
/** Microseconds added to each call of the token; sessions. */
const SLOW = [500, 1000, 5000].flatMap((us) => [1, 8, 32, 64].map((sessions) => ({ us, sessions })));
const PROMISED = { us: 1000, sessions: 32, atLeast: 0.9 };
/** Init and the operation itself, of an unwrap, a wrap and the unwrap that proves it. */
const CALLS_A_RECORD = 6;
/** How long a rotation should take about, as far as the delays go. */
const ROTATION_S = 10;
const PROMISED_ROTATION_S = 30;
const MOST_RECORDS = 40_000;
const ALONE_S = 3;

export async function hsm(stage: Stage, rounds: number): Promise<Line[]> {
  return [...(await bare(stage, rounds)), ...(await slow(stage, rounds))];
}

// ---------------------------------------------------------------------------------------------------------------------

async function bare(stage: Stage, rounds: number): Promise<Line[]> {
  const [memory, token] = ["hsm_env", "hsm_bare"];
  await seed(stage, memory, BARE_RECORDS);
  const direct = testToken({ direct: true });
  const variables = await inToken(stage, token, direct, BARE_RECORDS);
  const rates = { memory: [] as number[], token: [] as number[], added: [] as number[] };
  await thereAndBack(rounds, async (to) => {
    const rate = async (database: string, own: Variables) =>
      BARE_RECORDS / (await rotate(stage, database, to, { variables: { ...own, ...NO_DRAIN } })).rewrapSeconds;
    rates.memory.push(await rate(memory, {}));
    rates.token.push(await rate(token, variables));
    const calls = Math.max(...[1, availableParallelism()].map((threads) => drivenAlone(direct, threads, SOFTHSM)));
    rates.added.push(1 / (1 / (rates.memory.at(-1) ?? 0) + CALLS_A_RECORD / calls));
    say(`hsm: bare ${Math.round(rates.token.at(-1) ?? 0)}/s, in memory ${Math.round(rates.memory.at(-1) ?? 0)}/s`);
  });
  for (const database of [memory, token]) await stage.client.db(database).dropDatabase();
  return [
    line(TOPIC, "keys in memory", "records/s", rates.memory),
    line(TOPIC, "keys in SoftHSM, bare", "records/s", rates.token),
    line(TOPIC, "SoftHSM bare / keys in memory", "×", ratio(rates.token, rates.memory), { atLeast: 0.6 }),
    // SoftHSM computes on the same processors: its own time for six calls, and what a record costs with keys in memory. No bound: driven
    // alone its threads wait for each other, which a rotation has other work for.
    line(
      TOPIC,
      "the token's own calls added to keys in memory / keys in memory",
      "×",
      ratio(rates.added, rates.memory),
    ),
  ];
}

async function slow(stage: Stage, rounds: number): Promise<Line[]> {
  const lines: Line[] = [];
  for (const { us, sessions } of SLOW) {
    const promised = us === PROMISED.us && sessions === PROMISED.sessions;
    const wished = recordsFor(us, sessions, promised ? PROMISED_ROTATION_S : ROTATION_S);
    const records = promised ? wished : Math.min(wished, MOST_RECORDS);
    const token = testToken();
    const database = `hsm_${us}_${sessions}`;
    const variables = await inToken(stage, database, token, records);
    const driven: number[] = [];
    const alone: number[] = [];
    await thereAndBack(promised ? rounds : 1, async (to) => {
      token.shim.set({ latencyUs: us, slowInit: 1 });
      alone.push(drivenAlone(token, sessions));
      driven.push(await callsWhileRotating(stage, database, token, to, sessions, variables));
      token.shim.set({ latencyUs: 0, slowInit: 0 });
    });
    await stage.client.db(database).dropDatabase();
    const name = `${us / 1000} ms a call, ${sessions} session${sessions === 1 ? "" : "s"}`;
    say(`hsm: ${name}: ${median(driven).toFixed(0)} of ${median(alone).toFixed(0)} calls/s`);
    const wanted = promised ? { atLeast: PROMISED.atLeast } : undefined;
    if (promised) lines.push(line(TOPIC, `${name}, the token driven alone`, "calls/s", alone));
    lines.push(line(TOPIC, `rotate / the token driven alone, ${name}`, "×", ratio(driven, alone), wanted));
  }
  return lines;
}

/** As many as the delays alone let through in that time, and at least a batch. */
function recordsFor(us: number, sessions: number, seconds: number): number {
  return Math.max(1000, Math.round((sessions * seconds * 1e6) / us / CALLS_A_RECORD / 1000) * 1000);
}

/** An install with its keys in the token, and so many records sealed by it. @returns its settings. */
async function inToken(stage: Stage, database: string, token: TestToken, records: number): Promise<Variables> {
  const {
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: _1,
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: _2,
    ...rest
  } = variablesOf(stage, database, 1);
  const all = { ...rest, ...token.variables };
  await succeed(["kek", "pkcs11-init", "--version=1"], all);
  await (await serve(all)).stop();
  await succeed(["kek", "pkcs11-init", "--version=2"], all);
  say(`hsm: writing ${records} records`);
  const words = [join(import.meta.dir, "seed_by_library.ts"), String(records)];
  const child = spawn(process.execPath, words, { env: all, stdio: ["ignore", "ignore", "inherit"] });
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`seeding through the token ended with ${code}`);
  // Without these the process would look for keys in memory.
  return { ...token.variables, CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: "", CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: "" };
}

/** As many threads as sessions, each in a loop over the calls of a rewrap. */
function drivenAlone(token: TestToken, sessions: number, module = hsmBuild("shim.so")): number {
  const words = [module, token.label, "certautopilot-kek-v1", String(sessions), String(ALONE_S)];
  const env = { PATH: process.env["PATH"] ?? "", ...token.environment };
  return Number(execFileSync(hsmBuild("drive"), words, { env, input: `${PIN}\n`, encoding: "utf8" }));
}

/** Calls a second in the middle of a rotation: the shim counts them, a figure a second. */
async function callsWhileRotating(
  stage: Stage,
  database: string,
  token: TestToken,
  to: 1 | 2,
  sessions: number,
  variables: Variables,
): Promise<number> {
  const INTERVAL_MS = 1000;
  const windows: number[] = [];
  const count = () => 2 * (token.shim.get("encrypts") + token.shim.get("decrypts"));
  let [last, at] = [count(), performance.now()];
  const timer = setInterval(() => {
    const [now, time] = [count(), performance.now()];
    windows.push(((now - last) * 1000) / (time - at));
    [last, at] = [now, time];
  }, INTERVAL_MS);
  try {
    const flags = [`--hsm-sessions=${sessions}`];
    await rotate(stage, database, to, { flags, variables: { ...variables, ...NO_DRAIN } });
  } finally {
    clearInterval(timer);
  }
  // Before and after the rewrap there are next to none: the middle is where most windows are alike.
  const busy = windows.filter((rate) => rate > Math.max(...windows) / 2);
  return median(busy);
}
