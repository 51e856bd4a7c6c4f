import { get as overHttp } from "node:http";
import { get as overHttps } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { journalOfStart, systemctl, unitFacts } from "./systemd.ts";

/** Waits for a unit to do what it was started for, and says what it waits for. */

const PATIENCE_MS = 120_000;
const LOOK_MS = 200;
/** So many deaths are no start that takes long. */
const DEATHS = 3;

/**
 * @param where what is waited for, for people.
 * @param lacks why it is not there yet; undefined when it is.
 * @throws KekError `refused` with what the unit said last, `cancelled`.
 */
export async function awaitUnit(
  unit: string,
  where: string,
  lacks: () => Promise<string | undefined>,
  { log, interrupted }: { log: Log; interrupted: AbortSignal },
): Promise<void> {
  let told = "";
  const tell = (what: string) => {
    if (what !== told) log.info(`  waiting for ${where}: ${what}`);
    told = what;
  };
  let deaths = 0;
  let wasDead = false;
  for (const end = performance.now() + PATIENCE_MS; performance.now() < end && !interrupted.aborted; ) {
    const reason = await lacks();
    if (reason === undefined) return;
    const { active, sub, status } = await unitFacts(unit);
    const dead = active === "failed" || sub === "auto-restart";
    if (dead && !wasDead) deaths += 1;
    wasDead = dead;
    if (active === "failed" || deaths >= DEATHS) throw await notComing(unit, `it ended with ${status}`, log);
    tell(dead ? `${unit} ended with ${status}, systemd starts it again` : reason);
    await sleep(LOOK_MS);
  }
  if (interrupted.aborted) throw new KekError("cancelled", "interrupted", "run it again when you are ready");
  throw await notComing(unit, `${where} is not there within ${PATIENCE_MS / 1000} s: ${told}`, log);
}

/** @throws KekError `refused` with what this start of the unit said. */
export async function startUnit(verb: "start" | "restart", unit: string, log: Log): Promise<void> {
  began.set(unit, new Date());
  try {
    await systemctl(verb, unit);
  } catch (thrown) {
    throw await notComing(unit, messageOf(thrown), log);
  }
}

/** @returns why the service is not ready; undefined when it is. Another program's answer is none of ours. */
export async function notReady(url: string): Promise<string | undefined> {
  let answer: { status: number | undefined; body: string };
  try {
    answer = await ask(url);
  } catch {
    return "it does not listen yet";
  }
  const { ready, reason } = readinessIn(answer.body);
  if (answer.status === 200 && ready === true) return undefined;
  return reason ?? `another program answers there, with ${answer.status}`;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Not by fetch, which asks the proxy that HTTP_PROXY names, for loopback addresses too. */
async function ask(url: string): Promise<{ status: number | undefined; body: string }> {
  return await new Promise((resolve, reject) => {
    // The certificate names the service, not this loopback address.
    const options = { signal: AbortSignal.timeout(5000), rejectUnauthorized: false };
    const get = url.startsWith("https:") ? overHttps : overHttp;
    get(url, options, (answer) => {
      let body = "";
      answer.on("data", (chunk: Buffer) => (body += chunk.toString()));
      answer.once("error", reject);
      answer.once("end", () => resolve({ status: answer.statusCode, body }));
    }).once("error", reject);
  });
}

/** What `/readyz` says; nothing where the body is not of that kind. */
function readinessIn(body: string): { ready?: unknown; reason?: string } {
  try {
    const { ready, reason } = JSON.parse(body) as { ready?: unknown; reason?: unknown };
    return { ready, ...(typeof reason === "string" ? { reason } : {}) };
  } catch {
    return {};
  }
}

/** When this program started each unit. */
const began = new Map<string, Date>();

async function notComing(unit: string, what: string, log: Log): Promise<KekError> {
  const said = await journalOfStart(unit, began.get(unit) ?? new Date(0));
  // Whatever the service said must not speak to the operator's terminal.
  for (const line of said) log.warn(`${unit}: ${line.replaceAll(/\p{Cc}/gu, "?")}`);
  const error = said.findLast((line) => line.startsWith("error: "));
  return new KekError(
    "refused",
    `${unit} does not become ready: ${what}${error === undefined ? "" : `; it said ${error}`}`,
    `what it said last is above; repair it, then run this again`,
  );
}
