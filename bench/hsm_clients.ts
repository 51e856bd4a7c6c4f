import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { hsmBuild, type TestToken, testToken } from "../test/harness/token.ts";
import { columns, type Line, line, ratio } from "./line.ts";
import { quietly } from "./rounds.ts";
import { owned, type Stage, sayRates, serve, settled, type Variables, variablesOf } from "./stage.ts";
import { driven, inToken } from "./token_install.ts";

/**
 * Decrypts by many concurrent clients, with a key in a token whose C_Decrypt takes 2 ms: through the library and over HTTP,
 * beside a loop in C with as many threads as the process has sessions.
 */

const TOPIC = "Concurrent clients, keys in a token";
const DATABASE = "hsm_clients";
const SESSIONS = 32;
const CLIENTS = [64, 256];
const FIRST_DECRYPTS = 500;
/** C_DecryptInit and C_Decrypt. */
const CALLS_A_DECRYPT = 2;
const ALONE_S = 3;
const TOKEN = "t".repeat(48);
/** Whether C_DecryptInit takes as long as C_Decrypt. An HSM that answers it locally is harder to keep up with. */
const MODES = [
  { name: "2 ms a decrypt", latencyUs: 2000, slowInit: 0 },
  { name: "2 ms a call", latencyUs: 2000, slowInit: 1 },
];

export async function clients(stage: Stage, rounds: number): Promise<Line[]> {
  const token = testToken();
  const keys = await inToken(stage, DATABASE, token, FIRST_DECRYPTS);
  const tokenFile = join(stage.directory, "hsm-clients-token");
  writeFileSync(tokenFile, TOKEN, { mode: 0o600 });
  const variables = {
    ...variablesOf(stage, DATABASE, 1),
    ...keys,
    CERTAUTOPILOT_API_TOKEN_FILE: tokenFile,
  };
  const lines: Line[] = [];
  for (const mode of MODES) lines.push(...(await inMode(stage, token, variables, mode, rounds)));
  await stage.client.db(DATABASE).dropDatabase();
  return lines;
}

// ---------------------------------------------------------------------------------------------------------------------

async function inMode(
  stage: Stage,
  token: TestToken,
  variables: Variables,
  { name, latencyUs, slowInit }: (typeof MODES)[number],
  rounds: number,
): Promise<Line[]> {
  const lines: Line[] = [];
  const loop = async () => (await driven(token, SESSIONS, ALONE_S, hsmBuild("shim.so"))) / CALLS_A_DECRYPT;
  token.shim.set({ latencyUs, slowInit });
  for (const count of CLIENTS) {
    const each: Record<"loop" | "library" | "api", number>[] = [];
    for (let round = 0; round < rounds; round += 1) {
      each.push(
        await quietly(async (timed) => {
          await settled(stage);
          const before = await timed(loop);
          const library = await timed(() => byClients(["library", String(count)], variables));
          const serving = await serve(variables);
          const api = await timed(() => byClients(["api", String(count), serving.address, TOKEN], variables));
          await serving.stop();
          // The machine may have changed pace meanwhile.
          const rates = { loop: (before + (await timed(loop))) / 2, library, api };
          sayRates(`hsm: ${name}, ${count} clients`, rates);
          return rates;
        }),
      );
    }
    const of = columns(each);
    const about = `${name}, ${count} clients`;
    lines.push(
      line(TOPIC, `${about}: a loop in C, ${SESSIONS} threads`, "decrypts/s", of("loop")),
      line(TOPIC, `${about}: library / the loop in C`, "×", ratio(of("library"), of("loop")), { atLeast: 0.9 }),
      line(TOPIC, `${about}: API, one a request / library`, "×", ratio(of("api"), of("library")), { atLeast: 0.5 }),
    );
  }
  const first = { ms: [] as number[], busy: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    const serving = await serve(variables);
    const answer = await byClientsSaying(["first", String(FIRST_DECRYPTS), serving.address, TOKEN], variables);
    await serving.stop();
    const [ms = Number.NaN, refused = Number.NaN] = answer.trim().split(" ").map(Number);
    first.ms.push(ms);
    first.busy.push(refused);
  }
  const about = `${name}, the first ${FIRST_DECRYPTS} requests of a process, at once`;
  lines.push(
    line(TOPIC, `${about}: until all are answered`, "ms", first.ms),
    line(TOPIC, `${about}: refused`, "requests", first.busy, { atMost: 0 }),
  );
  token.shim.set({ latencyUs: 0, slowInit: 0 });
  return lines;
}

/** In a process of their own. @returns decrypts a second. */
async function byClients(words: string[], variables: Variables): Promise<number> {
  return Number(await byClientsSaying(words, variables));
}

async function byClientsSaying(words: string[], variables: Variables): Promise<string> {
  const script = join(import.meta.dir, "decrypt_clients.ts");
  const child = owned(
    spawn(process.execPath, [script, ...words], { env: variables, stdio: ["ignore", "pipe", "inherit"] }),
  );
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`${words.join(" ")} ended with ${code}`);
  return said;
}
