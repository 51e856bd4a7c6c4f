import { afterAll, expect, test } from "bun:test";
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { apiToken } from "../harness/api.ts";
import { HoldingProxy } from "../harness/holding_proxy.ts";
import { addressOf } from "../harness/hsm_install.ts";
import { versionsOf } from "../harness/library.ts";
import { stop, until, type Variables } from "../harness/program.ts";
import { CALM, kek, rotating, seededInstall } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The two example services, as their READMEs start them, through a rotation: nothing fails, nothing is lost. */

const ROOT = join(import.meta.dir, "../..");
const PYTHON = process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3";
const directory = scratchDirectory();

interface Example {
  name: string;
  url: string;
  /** What it said on stderr. */
  said(): string;
  stop(): Promise<number | null>;
}

/** Runs a command from a README, and returns once it listens. */
async function start(name: string, command: string[], variables: Variables): Promise<Example> {
  const child: ChildProcess = spawn(command[0] as string, command.slice(1), {
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", VAULT_PORT: "0", ...variables },
    cwd: ROOT,
  });
  afterAll(() => void child.kill("SIGKILL"));
  let said = "";
  child.stderr?.on("data", (bytes: Buffer) => {
    said += bytes.toString();
  });
  const exited = new Promise<number | null>((resolve) => child.once("close", resolve));
  const url = () => /listening on (\S+)/.exec(said)?.[1]?.replace(/\/$/, "");
  const ended = exited.then((code) => Promise.reject(new Error(`${name} ended with ${code}: ${said}`)));
  await Promise.race([until(`${name} listens`, async () => url() !== undefined, 40_000), ended]);
  ended.catch(() => undefined);
  return {
    name,
    url: url() as string,
    said: () => said,
    stop: async () => {
      child.kill("SIGTERM");
      return await exited;
    },
  };
}

/** An answer's body; fails unless the status is the one expected. */
async function ask(url: string, method: string, status: number, body?: object): Promise<Record<string, unknown>> {
  const response = await fetch(url, {
    method,
    signal: AbortSignal.timeout(60_000),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (response.status !== status) throw new Error(`${method} answered ${response.status}: ${text}`);
  return text === "" ? {} : JSON.parse(text);
}

/** One client of a service: it creates, changes and replaces secrets, and reads each one back. */
class Client {
  readonly #service: Example;
  readonly #expected = new Map<string, object>();
  readonly failures: string[] = [];
  rounds = 0;
  #going = true;
  readonly #ended: Promise<void>;

  constructor(service: Example) {
    this.#service = service;
    this.#ended = this.#run();
  }

  /** Ends after one more look at every secret. @returns how many there are. */
  async stop(): Promise<number> {
    this.#going = false;
    await this.#ended;
    for (const id of this.#expected.keys()) await this.#read(id);
    return this.#expected.size;
  }

  async #run(): Promise<void> {
    for (; this.#going; this.rounds += 1) {
      try {
        await this.#round(this.rounds);
      } catch (thrown) {
        this.failures.push(String(thrown));
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  async #round(round: number): Promise<void> {
    const { url } = this.#service;
    const secret = { name: `n${round}`, token: `token ${round} ü`, key: { pem: `pem ${round}` } };
    const id = String((await ask(`${url}/secrets`, "POST", 201, secret))["id"]);
    this.#expected.set(id, secret);
    await this.#read(id);
    const token = `token ${round}, changed`;
    await ask(`${url}/secrets/${id}`, "PATCH", 204, { token });
    this.#expected.set(id, { ...secret, token });
    await this.#read(id);
    const replacement = { name: `n${round}`, token: `token ${round}, replaced` };
    if (round % 2 === 0) await ask(`${url}/secrets/${id}`, "PUT", 204, replacement);
    if (round % 2 === 0) this.#expected.set(id, replacement);
  }

  async #read(id: string): Promise<void> {
    expect(await ask(`${this.#service.url}/secrets/${id}`, "GET", 200)).toEqual(this.#expected.get(id) as never);
  }
}

test("traffic through both examples while the KEK moves from 1 to 2, and a write of each that meets the fence", async () => {
  const install = await seededInstall(20, CALM);
  const { path, variables } = apiToken(directory);
  const server = await install.serve("server", [1, 2], 2, variables);
  const proxies = await Promise.all([1, 2].map(() => HoldingProxy.open(install.uri, "held-back")));
  const [first, second] = proxies as [HoldingProxy, HoldingProxy];
  const services = await Promise.all([
    start(
      "typescript",
      ["node_modules/.bin/bun", "examples/typescript/vault.ts"],
      install.variables([1, 2], 2, { CERTAUTOPILOT_INSTANCE_NAME: "vault", VAULT_DATABASE_URI: first.uri }),
    ),
    start("python", [PYTHON, "examples/python/vault.py"], {
      VAULT_API: addressOf(server),
      VAULT_API_TOKEN_FILE: path,
      VAULT_DATABASE_URI: second.uri,
      VAULT_DATABASE_NAME: install.name,
    }),
  ]);
  const clients = services.map((service) => new Client(service));
  await until("both have traffic", async () => clients.every(({ rounds }) => rounds > 2), 40_000);

  // Encrypted under version 1, and on its way to MongoDB for as long as the rotation takes.
  const late = services.map(async ({ url }) => {
    const { id } = await ask(`${url}/secrets`, "POST", 201, { name: "early", token: "early" });
    await ask(`${url}/secrets/${id}`, "PUT", 204, { name: "held-back", token: "late" });
    return `${url}/secrets/${id}`;
  });
  await until("each write is held back", async () => proxies.every(({ held }) => held === 1));
  const before = clients.map(({ rounds }) => rounds);
  const rotated = await rotating(install, "--to-version=2").exited;
  expect([rotated.code, rotated.stderr.includes("error:")]).toEqual([0, false]);
  const during = clients.map(({ rounds }, index) => rounds - (before[index] as number));
  for (const proxy of proxies) proxy.letGo();
  for (const url of await Promise.all(late))
    expect(await ask(url, "GET", 200)).toEqual({ name: "held-back", token: "late" });
  expect(proxies.map(({ rejected }) => rejected)).toEqual([1, 1]);

  for (const [index, client] of clients.entries()) {
    const records = await client.stop();
    expect(client.failures).toEqual([]);
    expect(during[index]).toBeGreaterThan(2);
    expect(records).toBeGreaterThan(during[index] as number);
  }
  for (const collection of ["vault", "vault_python"])
    expect(Object.keys(await versionsOf(install, collection, "token"))).toEqual(["2"]);
  const verified = await kek(install, "verify", "--records");
  expect(verified.json).toMatchObject({ ready: true, failed: 0, stale_records: [] });
  for (const service of services) {
    expect(await service.stop()).toBe(0);
    expect(service.said().split("\n").slice(1)).toEqual([""]);
  }
  await stop(server);
  // A program of another language that shares no code with ours reads every record of both with version 2's key alone.
  for (const collection of ["vault", "vault_python"]) {
    const reader = [join(ROOT, "test/independent/foreign.py"), "read", "--uri", install.uri, "--db", install.name];
    const read = Bun.spawn(
      [PYTHON, ...reader, "--collection", collection, "--path", "token", "--expect-version", "2"],
      {
        env: { PATH: process.env["PATH"] ?? "", ...install.variables([2], 2) },
        stdout: "pipe",
      },
    );
    expect(JSON.parse(await new Response(read.stdout).text())).toMatchObject({ bad: [] });
    expect(await read.exited).toBe(0);
  }
}, 120_000);

test("the READMEs of the examples say what was run here, with the packages that are pinned", () => {
  const text = (path: string) => readFileSync(join(ROOT, path), "utf8");
  expect(text("examples/typescript/README.md")).toContain("node_modules/.bin/bun examples/typescript/vault.ts");
  expect(text("examples/python/README.md")).toContain("python3 examples/python/vault.py");
  const pins = text("examples/python/requirements.txt").trim().split("\n");
  expect(text("test/independent/requirements.txt").split("\n")).toEqual(expect.arrayContaining(pins));
});
