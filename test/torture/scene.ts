import { randomBytes } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Db, MongoClient } from "mongodb";
import { refuseClosedSockets } from "../../src/store/closed_socket_patch.ts";
import { testToken } from "../harness/token.ts";
import { Accidents, FIELD } from "./accidents.ts";
import { Fleet, type Part, type Variables } from "./fleet.ts";
import { History } from "./history.ts";
import type { ReplicaSet } from "./replica_set.ts";
import { type Schedule, TIMES } from "./schedule.ts";
import { Volume } from "./volume.ts";

/** What a schedule is about: an install on the replica set, its fleet, an operator's hands, and notes of what was seen. */

export interface Conditions {
  set: ReplicaSet;
  directory: string;
  /** Sources to run in place of the compiled binary. */
  tree?: string;
  times?: Partial<typeof TIMES>;
}

/** Versions that every process holds. */
export const VERSIONS = [1, 2, 3] as const;
/** How long anything may take once all is well. */
export const ALL_WELL_MS = 60_000;
/** See setup_faketime in scripts/common.sh. */
const LIBFAKETIME = process.env["CERTAUTOPILOT_TEST_FAKETIME"];
/** A collection's own rules, which must be the same when all is over. */
export const OWN_RULES = {
  $jsonSchema: { bsonType: "object", required: ["revision"], properties: { revision: { bsonType: "number" } } },
};

export class Scene {
  readonly schedule: Schedule;
  readonly set: ReplicaSet;
  readonly #name: string;
  readonly directory: string;
  readonly fleet: Fleet;
  readonly #client: MongoClient;
  readonly db: Db;
  readonly history: History;
  readonly #keks: Variables;
  readonly token: ReturnType<typeof testToken> | undefined;
  readonly tokenVolume: Volume | undefined;
  readonly #secretsFile: string;
  readonly timeline: string[] = [];
  readonly findings: string[] = [];
  readonly cancels: Part[] = [];
  readonly removals: Part[] = [];
  readonly accidents: Accidents;
  readonly under: Promise<void>[] = [];
  #ledgers = 0;
  #began = performance.now();
  beganAt = new Date();

  constructor(schedule: Schedule, { set, directory, tree, times = {} }: Conditions) {
    this.schedule = schedule;
    this.set = set;
    this.#name = `torture_${schedule.seed}_${randomBytes(3).toString("hex")}`;
    this.directory = join(directory, this.#name);
    mkdirSync(this.directory, { mode: 0o700 });
    this.#secretsFile = join(this.directory, "secrets.env");
    this.#keks = Object.fromEntries(
      VERSIONS.map((version) => [`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`, randomBytes(32).toString("hex")]),
    );
    if (schedule.provider === "pkcs11") {
      this.token = testToken();
      this.tokenVolume = Volume.mount(join(this.token.directory, "tokens"), 2);
      if (this.tokenVolume !== undefined) this.token.addToken(this.token.label);
    }
    const { beatMs, leaseMs, evictionMs, drainMs } = { ...TIMES, ...times };
    const common: Variables = {
      CERTAUTOPILOT_DATABASE_URI: set.uri,
      CERTAUTOPILOT_DATABASE_NAME: this.#name,
      CERTAUTOPILOT_AUDIT_SECRET: "audit-secret-under-torture",
      CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
      CERTAUTOPILOT_FIELDS: "secrets:value",
      CERTAUTOPILOT_FLEET_BEAT_MS: String(beatMs),
      CERTAUTOPILOT_FLEET_LEASE_MS: String(leaseMs),
      CERTAUTOPILOT_FLEET_EVICTION_MS: String(evictionMs),
      CERTAUTOPILOT_FLEET_DRAIN_MS: String(drainMs),
      CERTAUTOPILOT_SECRETS_FILE: this.#secretsFile,
      // A process that is killed while it logs in keeps the others from it for so long.
      CERTAUTOPILOT_ENCRYPTION_PKCS11_LOGIN_LIMIT_MS: "15000",
      TORTURE_RECORDS: String(schedule.records),
    };
    this.declare(1);
    this.fleet = new Fleet({ ...common, ...this.token?.variables }, tree);
    // An act may use a connection whose mongod was killed just before.
    refuseClosedSockets();
    this.#client = new MongoClient(set.uri, {
      socketTimeoutMS: 30_000,
      writeConcern: { w: "majority", journal: true },
      readConcern: { level: "majority" },
    });
    this.db = this.#client.db(this.#name);
    this.history = new History(set.uri, this.#name);
    this.accidents = new Accidents(this.db, schedule.seed, async (verb) => {
      if (!this.fleet.hasField) return false;
      await this.ended(this.fleet.command(["kek", "field", verb, FIELD]));
      return true;
    });
  }

  /** A fresh install with every record under version 1, and a fleet that serves. */
  async prepare(): Promise<void> {
    await this.set.heal();
    await this.db.createCollection("secrets", { validator: OWN_RULES });
    await this.history.record();
    if (this.token !== undefined) await this.command(["kek", "pkcs11-init", "--version=1"]);
    const seeder = this.fleet.service("seed", { ...this.ledger() });
    const { code } = await seeder.exited;
    if (code !== 0) throw new Error(`the records could not be written: ${seeder.stderr()}`);
    if (this.token !== undefined)
      for (const version of [2, 3]) await this.command(["kek", "pkcs11-init", `--version=${version}`]);
    const joining = Array.from({ length: this.schedule.services }, (_, number) => this.join(number));
    const serving = this.fleet.serve();
    await Promise.all(joining.map((part) => said(part, "joined")));
    await said(serving, " is ready on ");
    await this.accidents.copy();
  }

  /** From here on the timeline counts. */
  begin(): void {
    this.#began = performance.now();
    this.beganAt = new Date();
  }

  get spentMs(): number {
    return performance.now() - this.#began;
  }

  async cleanUp(): Promise<void> {
    this.fleet.killAll();
    await Promise.all(this.under);
    this.tokenVolume?.unmount();
    if (this.token !== undefined) rmSync(this.token.directory, { recursive: true, force: true });
    await this.set.heal();
    await this.db.dropDatabase();
    await this.#client.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** As an operator does who reads what it says: with the dead named. */
  async rotate(to: number, from?: number): Promise<void> {
    const words = [`--to-version=${to}`, ...(from === undefined ? [] : [`--from-version=${from}`])];
    // As by a deployment: first the fleet is told which version is wanted, then it is gone to. A reverse rotation asks nobody.
    if (from === undefined && !(await this.isDestroyed(to))) {
      this.declare(to);
      await Bun.sleep(3 * TIMES.beatMs);
    }
    // Small batches under a limit, so that there is time for things to happen in between.
    const part = this.fleet.rotate([...words, "--batch-size=10", "--max-rate=120", ...(await this.deadMembers())]);
    await this.ended(part);
  }

  /** Stale envelopes are brought to the version in use. */
  async repair(): Promise<void> {
    const active = await this.db.collection<{ _id: number }>("kek_versions").findOne({ state: "active" });
    if (active === null) return;
    const words = [`--to-version=${active._id}`, "--batch-size=10", ...(await this.deadMembers())];
    await this.ended(this.fleet.rotate(words));
  }

  /** Of a retired version: one that is staged would be forgotten, and its key is still there. */
  async remove(version: number): Promise<void> {
    await this.accidents.alone(async () => {
      const versions = this.db.collection<{ _id: number; state: string }>("kek_versions");
      if ((await versions.findOne({ _id: version }))?.state !== "retired") return;
      const part = this.fleet.command(["kek", "remove", `--version=${version}`, "--yes"]);
      this.removals.push(part);
      await this.ended(part);
    });
  }

  async isDestroyed(version: number): Promise<boolean> {
    const versions = this.db.collection<{ _id: number; state: string }>("kek_versions");
    return (await versions.findOne({ _id: version, state: "destroyed" }).catch(() => null)) !== null;
  }

  async deadMembers(): Promise<string[]> {
    const named = await this.db
      .collection("process_heartbeats")
      .find({ instance_name: { $in: [...this.fleet.dead] } })
      .toArray()
      .catch(() => []);
    return [...new Set(named.map((beat) => `--evict=${beat["instance_name"]}`))];
  }

  async ended(part: Part): Promise<void> {
    const timer = setTimeout(() => {
      this.findings.push(`${part.name} did not end in ${ALL_WELL_MS / 1000} s: ${part.stderr().slice(-300)}`);
      this.fleet.kill(part);
    }, ALL_WELL_MS);
    const { code, signal } = await part.exited;
    clearTimeout(timer);
    const error = /error: .*/.exec(part.stderr())?.[0] ?? "";
    this.tell(`ended with ${code ?? signal}: ${part.name} ${error}`);
    if (code === 1) this.findings.push(`${part.name} ended with exit code 1: ${part.stderr().slice(-500)}`);
  }

  join(number: number): Part {
    const { clockOffS, services, seed } = this.schedule;
    const clock: Variables =
      number === 0 && clockOffS !== 0 && LIBFAKETIME !== undefined
        ? {
            LD_PRELOAD: LIBFAKETIME,
            FAKETIME: `${clockOffS > 0 ? "+" : ""}${clockOffS}s`,
            FAKETIME_DONT_FAKE_MONOTONIC: "1",
          }
        : {};
    const share = {
      TORTURE_SHARE: `${number % services}/${services}`,
      TORTURE_SEED: String(seed * 31 + this.#ledgers),
    };
    return this.fleet.service("traffic", { ...this.ledger(), ...share, ...clock });
  }

  keys(versions: readonly number[]): Variables {
    const names = versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`);
    return Object.fromEntries(names.map((name) => [name, this.#keks[name] as string]));
  }

  /** In the secrets file, which every process watches. */
  declare(version: number): void {
    const keys = this.token === undefined ? this.#keks : {};
    const lines = { ...keys, CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(version) };
    const text = Object.entries(lines).map(([name, value]) => `${name}=${value}\n`);
    writeFileSync(`${this.#secretsFile}.new`, text.join(""), { mode: 0o600 });
    renameSync(`${this.#secretsFile}.new`, this.#secretsFile);
  }

  async command(words: string[], must = true) {
    const part = this.fleet.command(words);
    const { code } = await part.exited;
    if (must && code !== 0) throw new Error(`${part.name} ended with ${code}: ${part.stderr()}`);
    return { code, stdout: part.stdout(), stderr: part.stderr() };
  }

  ledger(): Variables {
    this.#ledgers += 1;
    return { TORTURE_LEDGER: join(this.directory, `ledger-${this.#ledgers}`) };
  }

  tell(what: string): void {
    this.timeline.push(`${((performance.now() - this.#began) / 1000).toFixed(2)} s  ${what}`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function said(part: Part, text: string): Promise<void> {
  const until = performance.now() + 30_000;
  while (!part.stderr().includes(text)) {
    if (part.child.exitCode !== null || performance.now() > until)
      throw new Error(`${part.name} did not say "${text}": ${part.stderr().slice(-500)}`);
    await Bun.sleep(20);
  }
}
