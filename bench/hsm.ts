import { hsmBuild, SOFTHSM, type TestToken, testToken } from "../test/harness/token.ts";
import { clients } from "./hsm_clients.ts";
import { columns, type Line, line, median, ratio } from "./line.ts";
import { NO_DRAIN, rotate } from "./rotation.ts";
import { thereAndBack } from "./rounds.ts";
import { seed } from "./seed.ts";
import { FIELD, type Stage, say, sayRates, settled } from "./stage.ts";
import { driven, inToken } from "./token_install.ts";

/** A rotation with keys in a token: SoftHSM bare beside keys in memory, and SoftHSM made slow beside a loop in C that drives it. */

const TOPIC = "Keys in a token (SoftHSM)";
const BARE_RECORDS = 120_000;
/** Microseconds added to each call of the token; sessions. */
const SLOW = [500, 1000, 5000].flatMap((us) => [1, 8, 32, 64].map((sessions) => ({ us, sessions })));
const PROMISED = { us: 1000, sessions: 32, atLeast: 0.9 };
/** Init and the operation itself, of an unwrap, a wrap and the unwrap that verifies it. */
const CALLS_A_RECORD = 6;
/** How long a rotation should take about, as far as the delays go. */
const ROTATION_S = 10;
const PROMISED_ROTATION_S = 30;
const MOST_RECORDS = 40_000;
const ALONE_S = 3;
const MEMORY = "hsm_env";

export async function hsm(stage: Stage, rounds: number): Promise<Line[]> {
  return [...(await bare(stage, rounds)), ...(await slow(stage, rounds)), ...(await clients(stage, rounds))];
}

// ---------------------------------------------------------------------------------------------------------------------

async function bare(stage: Stage, rounds: number): Promise<Line[]> {
  const [memory, token] = [MEMORY, "hsm_bare"];
  await seed(stage, memory, BARE_RECORDS);
  const direct = testToken({ direct: true });
  const variables = await inToken(stage, token, direct, BARE_RECORDS);
  const each = await thereAndBack(rounds, async (to, timed) => {
    const inMemory = async (there: 1 | 2) =>
      BARE_RECORDS / (await rotate(stage, memory, there, { variables: NO_DRAIN })).rewrapSeconds;
    const beside = async (there: 1 | 2, threads: number) => {
      const rotating = inMemory(there);
      const { calls, moved } = await drivenBeside(stage, memory, there, rotating, direct, threads, SOFTHSM);
      await rotating;
      return Math.min(moved, calls / CALLS_A_RECORD);
    };
    await settled(stage);
    const alone = await timed(() => inMemory(2));
    await settled(stage);
    const ran = await timed(() => rotate(stage, token, to, { variables: { ...variables, ...NO_DRAIN } }));
    const one = await timed(() => beside(1, 1));
    const two = await timed(() => beside(2, 2));
    await inMemory(1);
    const rates = { memory: alone, token: BARE_RECORDS / ran.rewrapSeconds, beside: Math.max(one, two) };
    sayRates("hsm: bare", rates);
    return rates;
  });
  const of = columns(each);
  for (const database of [memory, token]) await stage.client.db(database).dropDatabase();
  return [
    line(TOPIC, "keys in memory", "records/s", of("memory")),
    line(TOPIC, "keys in SoftHSM, bare", "records/s", of("token")),
    line(TOPIC, "SoftHSM bare / keys in memory", "×", ratio(of("token"), of("memory")), { atLeast: 0.6 }),
    // For comparison: SoftHSM computes on the same processors, and its threads stand in each other's way.
    line(
      TOPIC,
      "SoftHSM driven by a loop in C beside a rotation with keys in memory / keys in memory",
      "×",
      ratio(of("beside"), of("memory")),
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
    if (promised) await seed(stage, MEMORY, MOST_RECORDS);
    const each = await thereAndBack(promised ? rounds : 1, async (to, timed) => {
      token.shim.set({ latencyUs: us, slowInit: 1 });
      const before = await timed(() => drivenAlone(token, sessions));
      await settled(stage);
      const rotation = { flags: [`--hsm-sessions=${sessions}`], variables: { ...variables, ...NO_DRAIN } };
      const { rewrapSeconds } = await timed(() => rotate(stage, database, to, rotation));
      // Over the whole phase, with the time in which its sessions open.
      const rotating = (CALLS_A_RECORD * records) / rewrapSeconds;
      // This machine may be another one by then: what the token alone does is what it did before and after.
      const alone = (before + (await timed(() => drivenAlone(token, sessions)))) / 2;
      let beside = Number.NaN;
      if (promised) {
        // The other work that a rotation has on these processors, at the same pace.
        const wanted = rotating / CALLS_A_RECORD;
        const other = rotate(stage, MEMORY, to, { flags: [`--max-rate=${Math.round(wanted)}`], variables: NO_DRAIN });
        const { calls, moved } = await drivenBeside(stage, MEMORY, to, other, token, sessions, hsmBuild("shim.so"));
        await other;
        // No more than goes with the records that were moved meanwhile.
        beside = calls * Math.min(1, moved / wanted);
      }
      token.shim.set({ latencyUs: 0, slowInit: 0 });
      return { rotating, alone, beside };
    });
    const of = columns(each);
    await stage.client.db(database).dropDatabase();
    const name = `${us / 1000} ms a call, ${sessions} session${sessions === 1 ? "" : "s"}`;
    say(`hsm: ${name}: ${median(of("rotating")).toFixed(0)} of ${median(of("alone")).toFixed(0)} calls/s`);
    const wanted = promised ? { atLeast: PROMISED.atLeast } : undefined;
    if (promised) lines.push(line(TOPIC, `${name}, the token driven alone`, "calls/s", of("alone")));
    lines.push(
      line(TOPIC, `rotate / the token driven alone, ${name}`, "×", ratio(of("rotating"), of("alone")), wanted),
    );
    if (!promised) continue;
    await stage.client.db(MEMORY).dropDatabase();
    const told = `the same loop in C beside a rotation with keys in memory of as many records a second / alone, ${name}`;
    lines.push(line(TOPIC, told, "×", ratio(of("beside"), of("alone"))));
  }
  return lines;
}

/** As many as the delays alone let through in that time, and at least a batch. */
function recordsFor(us: number, sessions: number, seconds: number): number {
  return Math.max(1000, Math.round((sessions * seconds * 1e6) / us / CALLS_A_RECORD / 1000) * 1000);
}

async function drivenAlone(token: TestToken, sessions: number): Promise<number> {
  return await driven(token, sessions, ALONE_S, hsmBuild("shim.so"));
}

/**
 * While a rotation with keys in memory is at its records: as if the calls that it would make came from nowhere.
 * @param to the version that it moves records to.
 * @returns calls that the token answered and records that were moved, a second.
 */
async function drivenBeside(
  stage: Stage,
  database: string,
  to: 1 | 2,
  rotation: Promise<unknown>,
  token: TestToken,
  sessions: number,
  module: string,
): Promise<{ calls: number; moved: number }> {
  const db = stage.client.db(database);
  const atNew = () => db.collection(FIELD.collection).countDocuments({ [`${FIELD.path}.kek_version`]: to });
  let over = false;
  const ended = rotation.finally(() => {
    over = true;
  });
  while ((await atNew()) === 0 && !over) await Bun.sleep(20);
  const [before, began] = [await atNew(), performance.now()];
  const calls = await driven(token, sessions, ALONE_S, module);
  const moved = (((await atNew()) - before) * 1000) / (performance.now() - began);
  if (over) await ended;
  return { calls, moved };
}
