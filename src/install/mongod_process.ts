import { type ChildProcess, spawn } from "node:child_process";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { bareEnvironment } from "../config/environment.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import { type LocalDatabase, setUpLocalDatabase } from "../store/local_users.ts";
import { addressOf } from "./address.ts";
import type { Ids } from "./current_state.ts";
import { LAYOUT } from "./layout.ts";
import { asServiceUser } from "./system_user.ts";

/** The local mongod while it is being set up: a child of this program, as the service user, that ends with it. */
export class MongodProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #binary: string;
  #said = "";

  static async start(binary: string, user: Ids): Promise<MongodProcess> {
    const as = await asServiceUser(user, undefined);
    return new MongodProcess(binary, [...as, binary, "--config", LAYOUT.mongodConfig]);
  }

  private constructor(binary: string, [program, ...args]: [string, ...string[]]) {
    this.#binary = binary;
    // A process group of its own: a Ctrl-C is for the installer, which ends mongod in order.
    const options = { cwd: "/", env: bareEnvironment({}), detached: true };
    this.#child = spawn(program, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on("data", (chunk: Buffer) => {
        this.#said = (this.#said + chunk.toString()).slice(-KEPT);
      });
    this.#ended = new Promise((resolve) => {
      this.#child.once("error", (error) => {
        this.#said += `\n${error.message}`;
        resolve();
      });
      this.#child.once("exit", () => resolve());
    });
  }

  /** Waits until it listens. @throws KekError `mongodb_unavailable` with what mongod said last. */
  async listening(host: string): Promise<void> {
    await this.#during(host, answers(host));
  }

  /** Makes replica set and users. @throws KekError as above. */
  async setUp(local: LocalDatabase): Promise<void> {
    await this.listening(local.host);
    await this.#during(local.host, setUpLocalDatabase(local));
  }

  /** SIGTERM is a clean shutdown: its files are whole afterwards. */
  async stop(): Promise<void> {
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), PATIENCE_MS);
    await this.#ended;
    clearTimeout(timer);
  }

  async #during(host: string, work: Promise<void>): Promise<void> {
    const died = this.#ended.then(() => {
      throw new Error("it ended");
    });
    try {
      await Promise.race([work, died]);
    } catch (thrown) {
      await this.stop();
      throw new KekError(
        "mongodb_unavailable",
        `${this.#binary} cannot be used on ${host}: ${messageOf(thrown)}; it said last: ${lastWords(this.#said)}`,
        `look at disk space, at the rights of ${LAYOUT.mongodData}, and whether this mongod runs on this processor (5.0 and newer need AVX)`,
        { cause: thrown },
      );
    }
  }
}

export async function canConnect(address: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(addressOf(address));
    const done = (connected: boolean) => {
      socket.destroy();
      resolve(connected);
    };
    socket.setTimeout(2000, () => done(false));
    socket.once("connect", () => done(true));
    socket.once("error", () => done(false));
  });
}

// ---------------------------------------------------------------------------------------------------------------------

const KEPT = 64_000;
const PATIENCE_MS = 30_000;

async function answers(host: string): Promise<void> {
  for (const end = performance.now() + PATIENCE_MS; performance.now() < end; ) {
    if (await canConnect(host)) return;
    await sleep(50);
  }
  throw new Error(`it does not listen within ${PATIENCE_MS / 1000} s`);
}

/** mongod logs JSON, one document a line: what it complained of, else its last lines. */
function lastWords(said: string): string {
  const lines = said.split("\n").filter((line) => line.trim() !== "");
  const words = lines.map((line) => {
    try {
      const { s, msg, attr } = JSON.parse(line) as { s: string; msg: string; attr?: unknown };
      return { bad: s === "E" || s === "F", text: `${msg} ${attr === undefined ? "" : JSON.stringify(attr)}`.trim() };
    } catch {
      return { bad: true, text: line };
    }
  });
  const bad = words.filter((word) => word.bad);
  return (bad.length > 0 ? bad : words)
    .slice(-3)
    .map(({ text }) => text.slice(0, 300))
    .join(" | ");
}
