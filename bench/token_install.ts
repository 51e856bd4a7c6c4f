import { spawn } from "node:child_process";
import { join } from "node:path";
import { hsmBuild, PIN, type TestToken } from "../test/harness/token.ts";
import { owned, type Stage, say, serve, succeed, type Variables, variablesOf } from "./stage.ts";

/** An install with its keys in a token, and a loop in C that drives the same token. */

/** An install with its keys in the token, and so many records sealed by it. @returns its settings. */
export async function inToken(stage: Stage, database: string, token: TestToken, records: number): Promise<Variables> {
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
  const child = owned(spawn(process.execPath, words, { env: all, stdio: ["ignore", "ignore", "inherit"] }));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`seeding through the token ended with ${code}`);
  // Without these the process would look for keys in memory.
  return { ...token.variables, CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: "", CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: "" };
}

/** As many threads as sessions, each in a loop over the calls of a rewrap. @returns calls a second. */
export async function driven(token: TestToken, sessions: number, seconds: number, module: string): Promise<number> {
  const words = [module, token.label, "certautopilot-kek-v1", String(sessions), String(seconds)];
  const env = { PATH: process.env["PATH"] ?? "", ...token.environment };
  const child = owned(spawn(hsmBuild("drive"), words, { env, stdio: ["pipe", "pipe", "inherit"] }));
  child.stdin.end(`${PIN}\n`);
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`the loop that drives the token ended with ${code}`);
  return Number(said);
}
