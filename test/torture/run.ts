import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EJSON } from "bson";
import { type Db, type Document, MongoClient } from "mongodb";
import { testToken } from "../harness/token.ts";
import { Fleet, type Part, type Variables } from "./fleet.ts";
import { History } from "./history.ts";
import { Ledger, type Opened } from "./oracle.ts";
import type { ReplicaSet } from "./replica_set.ts";
import { brokenRules } from "./rules.ts";
import { type Act, inWords, type Schedule, TIMES } from "./schedule.ts";
import { Volume } from "./volume.ts";

/** One schedule, from an empty database to the oracle's verdict. */

export interface Verdict {
  findings: string[];
  /** What happened when, for whoever has to find out why. */
  timeline: string[];
  writes: number;
  reads: number;
  rotations: number;
  acts: string[];
}

export interface Conditions {
  set: ReplicaSet;
  directory: string;
  /** Sources to run in place of the compiled binary. */
  tree?: string;
  times?: Partial<typeof TIMES>;
}

/** Versions that every process holds. */
const VERSIONS = [1, 2, 3] as const;
const ALL_WELL_MS = 60_000;
/** See setup_faketime in scripts/common.sh. */
const LIBFAKETIME = process.env["CERTAUTOPILOT_TEST_FAKETIME"];
/** A collection's own rules, which must be the same when all is over. */
const OWN_RULES = {
  $jsonSchema: { bsonType: "object", required: ["revision"], properties: { revision: { bsonType: "number" } } },
};

export async function runSchedule(schedule: Schedule, conditions: Conditions): Promise<Verdict> {
  const running = new Running(schedule, conditions);
  try {
    await running.prepare();
    await running.torture();
    return await running.verdict();
  } finally {
    await running.cleanUp();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

class Running {
  readonly #schedule: Schedule;
  readonly #set: ReplicaSet;
  readonly #name: string;
  readonly #directory: string;
  readonly #fleet: Fleet;
  readonly #client: MongoClient;
  readonly #db: Db;
  readonly #history: History;
  readonly #keks: Variables;
  readonly #token: ReturnType<typeof testToken> | undefined;
  readonly #tokenVolume: Volume | undefined;
  readonly #secretsFile: string;
  readonly #timeline: string[] = [];
  readonly #findings: string[] = [];
  readonly #cancels: Part[] = [];
  readonly #under: Promise<void>[] = [];
  #ledgers = 0;
  #began = performance.now();
  #beganAt = new Date();

  constructor(schedule: Schedule, { set, directory, tree, times = {} }: Conditions) {
    this.#schedule = schedule;
    this.#set = set;
    this.#name = `torture_${schedule.seed}_${randomBytes(3).toString("hex")}`;
    this.#directory = join(directory, this.#name);
    mkdirSync(this.#directory, { mode: 0o700 });
    this.#secretsFile = join(this.#directory, "secrets.env");
    this.#keks = Object.fromEntries(
      VERSIONS.map((version) => [`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`, randomBytes(32).toString("hex")]),
    );
    if (schedule.provider === "pkcs11") {
      this.#token = testToken();
      this.#tokenVolume = Volume.mount(join(this.#token.directory, "tokens"), 2);
      if (this.#tokenVolume !== undefined) this.#token.addToken(this.#token.label);
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
      TORTURE_RECORDS: String(schedule.records),
    };
    this.#declare(1);
    this.#fleet = new Fleet({ ...common, ...this.#token?.variables }, tree);
    this.#client = new MongoClient(set.uri, {
      writeConcern: { w: "majority", journal: true },
      readConcern: { level: "majority" },
    });
    this.#db = this.#client.db(this.#name);
    this.#history = new History(set.uri, this.#name);
  }

  /** A fresh install with every record under version 1, and a fleet that serves. */
  async prepare(): Promise<void> {
    await this.#set.heal();
    await this.#db.createCollection("secrets", { validator: OWN_RULES });
    await this.#history.record();
    if (this.#token !== undefined) await this.#command(["kek", "pkcs11-init", "--version=1"]);
    const seeder = this.#fleet.service("seed", { ...this.#ledger() });
    const { code } = await seeder.exited;
    if (code !== 0) throw new Error(`the records could not be written: ${seeder.stderr()}`);
    if (this.#token !== undefined)
      for (const version of [2, 3]) await this.#command(["kek", "pkcs11-init", `--version=${version}`]);
    const joining = Array.from({ length: this.#schedule.services }, (_, number) => this.#join(number));
    const serving = this.#fleet.serve();
    await Promise.all(joining.map((part) => said(part, "joined")));
    await said(serving, " is ready on ");
  }

  async torture(): Promise<void> {
    this.#began = performance.now();
    this.#beganAt = new Date();
    for (const { atMs, act, inPhase } of this.#schedule.acts) {
      const spent = performance.now() - this.#began;
      if (inPhase === undefined) await Bun.sleep(Math.max(0, atMs - spent));
      else await this.#phase(inPhase).then(() => Bun.sleep(atMs));
      this.#tell(inWords(act));
      this.#under.push(this.#do(act).catch((thrown) => this.#tell(`could not: ${inWords(act)}: ${thrown}`)));
    }
    await Bun.sleep(Math.max(0, this.#schedule.durationMs - (performance.now() - this.#began)));
    await Promise.all(this.#under);
    this.#tell("all is well again");
    this.#tokenVolume?.free();
    await this.#set.heal();
  }

  /** Waits for a rotation to be in a phase; not for ever, for it may never come to it. */
  async #phase(phase: number): Promise<void> {
    const until = performance.now() + 20_000;
    const rotations = this.#db.collection("kek_rotations");
    while (performance.now() < until) {
      if ((await rotations.findOne({ open: true, phase }).catch(() => null)) !== null) return;
      await Bun.sleep(20);
    }
  }

  /** Left alone, an operator who runs the same command again gets it done; then everything is counted. */
  async verdict(): Promise<Verdict> {
    for (const part of this.#fleet.living(this.#fleet.coordinators)) {
      part.child.kill("SIGCONT");
      await Promise.race([part.exited, Bun.sleep(ALL_WELL_MS)]);
      if (part.child.exitCode === null) {
        this.#findings.push(`${part.name} was left alone and did not end: ${part.stderr().slice(-300)}`);
        this.#fleet.kill(part);
      }
    }
    await this.#complete();
    await this.#onward();
    for (const late of await this.#fleet.end([...this.#fleet.services, ...this.#fleet.serving], 30_000))
      this.#findings.push(`${late} did not end when it was told to`);
    await this.#history.finish();
    const opened = await this.#openAll();
    const ledger = Ledger.read(
      readdirSync(this.#directory)
        .filter(isLedger)
        .map((file) => join(this.#directory, file)),
    );
    if (opened.length !== this.#schedule.records)
      this.#findings.push(`${opened.length} of ${this.#schedule.records} records are there`);
    this.#findings.push(...ledger.findings(opened), ...brokenRules(this.#history.changes), ...this.#promises());
    this.#findings.push(...(await this.#rulesAside()));
    const audit = await this.#command(["audit", "verify"], false);
    if (audit.code !== 0) this.#findings.push(`the audit chain is not whole: ${audit.stderr}${audit.stdout}`);
    return {
      findings: [...new Set(this.#findings)],
      timeline: [...this.#timeline, ...this.#audited(), ...failuresOf(ledger)],
      writes: ledger.counts.writes,
      reads: ledger.counts.reads,
      rotations: this.#completed(),
      acts: this.#schedule.acts.map(({ act }) => act.act),
    };
  }

  async cleanUp(): Promise<void> {
    this.#fleet.killAll();
    await Promise.all(this.#under);
    this.#tokenVolume?.unmount();
    if (this.#token !== undefined) rmSync(this.#token.directory, { recursive: true, force: true });
    await this.#set.heal();
    await this.#db.dropDatabase();
    await this.#client.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  // ------------------------------------------------------------------------------------------------ what is done to it

  async #do(act: Act): Promise<void> {
    const { services, serving, coordinators } = this.#fleet;
    switch (act.act) {
      case "rotate":
        return await this.#rotate(act.to, act.from);
      case "declare":
        return this.#declare(act.to);
      case "cancel": {
        const part = this.#fleet.command(["kek", "rotate", "--cancel"]);
        this.#cancels.push(part);
        return await this.#ended(part);
      }
      case "kill coordinators":
        for (const part of this.#fleet.living(coordinators)) this.#fleet.kill(part);
        return;
      case "pause coordinators":
        return void (await Promise.all(
          this.#fleet.living(coordinators).map((part) => this.#fleet.pause(part, act.ms)),
        ));
      case "join":
        return void this.#join(0);
      case "kill service":
        return this.#fleet.kill(nth(this.#fleet.living(services), act.n));
      case "pause service":
        return await this.#fleet.pause(nth(this.#fleet.living(services), act.n), act.ms);
      case "leave":
        return void (await this.#fleet.end([nth(this.#fleet.living(services), act.n)], 20_000));
      case "kill serve":
        this.#fleet.kill(nth(this.#fleet.living(serving), act.n));
        return void this.#fleet.serve();
      case "pause serve":
        return await this.#fleet.pause(nth(this.#fleet.living(serving), act.n), act.ms);
      case "fill token's disk":
        this.#tokenVolume?.fill();
        await Bun.sleep(act.ms);
        return this.#tokenVolume?.free();
      default:
        return await this.#doToMongo(act);
    }
  }

  async #doToMongo(act: Act): Promise<void> {
    const set = this.#set;
    const primary = (await set.primary()) ?? 0;
    const [secondary = 1, other = 2] = await set.secondaries();
    switch (act.act) {
      case "kill primary":
        set.kill(primary);
        await Bun.sleep(act.ms);
        return set.restart(primary);
      case "step down":
        return await set.stepDown();
      case "lose secondary":
        set.kill(secondary);
        await Bun.sleep(act.ms);
        return set.restart(secondary);
      case "empty secondary":
        return await set.empty(secondary);
      case "isolate and kill primary":
        // What it takes now it takes alone; then it dies, and the others go on without.
        set.signal(secondary, "SIGSTOP");
        set.signal(other, "SIGSTOP");
        // What it has sent already, or would send by itself, must not wait for them in a buffer. Clients connect again.
        set.proxy(primary).drop();
        await Bun.sleep(act.ms);
        set.kill(primary);
        set.signal(secondary, "SIGCONT");
        set.signal(other, "SIGCONT");
        await Bun.sleep(1000);
        return set.restart(primary);
      case "slow network":
        for (const member of [primary, secondary, other]) set.proxy(member).slow(act.delayMs);
        await Bun.sleep(act.ms);
        for (const member of [primary, secondary, other]) set.proxy(member).heal();
        return;
      case "cut off":
        set.proxy(act.n % 3).cut();
        await Bun.sleep(act.ms);
        return set.proxy(act.n % 3).heal();
      case "fill disk":
        set.fillDisk();
        await Bun.sleep(act.ms);
        return await set.heal();
    }
  }

  /** As an operator does who reads what it says: with the dead named. */
  async #rotate(to: number, from?: number): Promise<void> {
    const words = [`--to-version=${to}`, ...(from === undefined ? [] : [`--from-version=${from}`])];
    // As by a deployment: first the fleet is told which version is wanted, then it is gone to. A way back asks nobody.
    if (from === undefined) {
      this.#declare(to);
      await Bun.sleep(3 * TIMES.beatMs);
    }
    // Small batches under a limit, so that there is time for things to happen in between.
    const part = this.#fleet.rotate([...words, "--batch-size=10", "--max-rate=120", ...(await this.#deadMembers())]);
    await this.#ended(part);
  }

  async #deadMembers(): Promise<string[]> {
    const named = await this.#db
      .collection("process_heartbeats")
      .find({ instance_name: { $in: [...this.#fleet.dead] } })
      .toArray()
      .catch(() => []);
    return [...new Set(named.map((beat) => `--evict=${beat["instance_name"]}`))];
  }

  async #ended(part: Part): Promise<void> {
    const timer = setTimeout(() => {
      this.#findings.push(`${part.name} did not end in ${ALL_WELL_MS / 1000} s: ${part.stderr().slice(-300)}`);
      this.#fleet.kill(part);
    }, ALL_WELL_MS);
    const { code, signal } = await part.exited;
    clearTimeout(timer);
    const error = /error: .*/.exec(part.stderr())?.[0] ?? "";
    this.#tell(`ended with ${code ?? signal}: ${part.name} ${error}`);
    if (code === 1) this.#findings.push(`${part.name} ended with exit code 1: ${part.stderr().slice(-500)}`);
  }

  #join(number: number): Part {
    const { clockOffS, services, seed } = this.#schedule;
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
    return this.#fleet.service("traffic", { ...this.#ledger(), ...share, ...clock });
  }

  // ------------------------------------------------------------------------------------------------ what comes of it

  async #complete(): Promise<void> {
    const until = performance.now() + ALL_WELL_MS;
    for (let last = ""; ; await Bun.sleep(500)) {
      const open = await this.#db.collection("kek_rotations").findOne({ open: true });
      if (open === null) return;
      if (performance.now() > until) {
        this.#findings.push(`the rotation does not come to its end: ${last}`);
        return;
      }
      const words = [`--to-version=${open["to"]}`, `--from-version=${open["from"]}`, ...(await this.#deadMembers())];
      const part = this.#fleet.rotate(words);
      await this.#ended(part);
      last = part.stderr().slice(-500);
    }
  }

  /** With everything well, and the fleet at work, one more: what was held back in the storm arrives after it. */
  async #onward(): Promise<void> {
    const [active] = await this.#db.collection<{ _id: number }>("kek_versions").find({ state: "active" }).toArray();
    const to = ((active?._id ?? 1) % VERSIONS.length) + 1;
    const until = performance.now() + ALL_WELL_MS;
    for (let last = ""; ; ) {
      if (performance.now() > until) {
        this.#findings.push(`a rotation with everything well does not come to its end: ${last}`);
        return;
      }
      const before = this.#fleet.coordinators.length;
      // Whether it is the next version or one that was left before: it is asked for by both names.
      this.#declare(to);
      await Bun.sleep(3 * TIMES.beatMs);
      await this.#rotate(to, active?._id ?? 1);
      last = this.#fleet.coordinators[before]?.stderr().slice(-500) ?? "";
      if (this.#fleet.coordinators[before]?.child.exitCode === 0) return;
      await Bun.sleep(500);
    }
  }

  /** What a command reported as done is in the history: nothing that was promised was rolled back. */
  #promises(): string[] {
    const events = this.#history.changes.flatMap((change) => (change.of === "audit" ? [change] : []));
    const kept = ({ name, began }: Part) => {
      const to = /--to-version=(\d+)/.exec(name)?.[1];
      const event = name.includes("--cancel") ? "rotation.cancelled" : "rotation.completed";
      return events.some(
        (entry) => entry.event === event && entry.at > began && (to === undefined || entry.data["to"] === Number(to)),
      );
    };
    return [...this.#fleet.coordinators, ...this.#cancels]
      .filter((part) => part.child.exitCode === 0 && !kept(part))
      .map(({ name }) => `${name} ended with exit code 0, and what it did is not in the history`);
  }

  #completed(): number {
    return this.#history.changes.filter((change) => change.of === "audit" && change.event === "rotation.completed")
      .length;
  }

  #audited(): string[] {
    return this.#history.changes.flatMap((change) => {
      if (change.of !== "audit") return [];
      const seconds = (change.at.getTime() - this.#beganAt.getTime()) / 1000;
      return [`${seconds.toFixed(2)} s  audit: ${change.event} ${JSON.stringify(change.data)} by ${change.actor}`];
    });
  }

  /** With the keys that the product says are needed, and no other. */
  async #openAll(): Promise<Opened[]> {
    const active = await this.#db.collection("kek_versions").find({ state: "active" }).toArray();
    if (active.length !== 1) this.#findings.push(`${active.length} versions are active`);
    const version = Number(active[0]?._id ?? 1);
    const keys = this.#token === undefined ? this.#keys([version]) : {};
    const prover = this.#fleet.service("prove", { CERTAUTOPILOT_SECRETS_FILE: "", ...keys });
    const { code } = await prover.exited;
    if (code !== 0) this.#findings.push(`the records could not be opened: ${prover.stderr().slice(-500)}`);
    return prover
      .stdout()
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Opened);
  }

  #keys(versions: readonly number[]): Variables {
    const names = versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}`);
    return Object.fromEntries(names.map((name) => [name, this.#keks[name] as string]));
  }

  /** In the secrets file, which every process watches. */
  #declare(version: number): void {
    const keys = this.#token === undefined ? this.#keks : {};
    const lines = { ...keys, CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: String(version) };
    const text = Object.entries(lines).map(([name, value]) => `${name}=${value}\n`);
    writeFileSync(`${this.#secretsFile}.new`, text.join(""), { mode: 0o600 });
    renameSync(`${this.#secretsFile}.new`, this.#secretsFile);
  }

  async #command(words: string[], must = true) {
    const part = this.#fleet.command(words);
    const { code } = await part.exited;
    if (must && code !== 0) throw new Error(`${part.name} ended with ${code}: ${part.stderr()}`);
    return { code, stdout: part.stdout(), stderr: part.stderr() };
  }

  /** The collection has its own rules, and besides them the fence that the newest rotation says it has; nothing else. */
  async #rulesAside(): Promise<string[]> {
    const [newest] = await this.#db.collection("kek_rotations").find().sort({ epoch: -1 }).limit(1).toArray();
    const left: number[] = newest?.["fence"].versions ?? [];
    const fence = { $comment: "certautopilot fence", $nor: [{ "value.kek_version": { $in: left } }] };
    const validator = left.length === 0 ? OWN_RULES : { $and: [OWN_RULES, fence] };
    const [secrets] = await this.#db.listCollections({ name: "secrets" }).toArray();
    const {
      validator: there,
      validationLevel = "strict",
      validationAction = "error",
    } = (secrets as Document)["options"];
    const found = EJSON.stringify({ validator: there, validationLevel, validationAction });
    const wanted = EJSON.stringify({ validator, validationLevel: "strict", validationAction: "error" });
    return found === wanted ? [] : [`the collection's rules are ${found}, and should be ${wanted}`];
  }

  #ledger(): Variables {
    this.#ledgers += 1;
    return { TORTURE_LEDGER: join(this.#directory, `ledger-${this.#ledgers}`) };
  }

  #tell(what: string): void {
    this.#timeline.push(`${((performance.now() - this.#began) / 1000).toFixed(2)} s  ${what}`);
  }
}

function nth(parts: Part[], n: number): Part {
  if (parts.length === 0) throw new Error("nobody is left");
  return parts[n % parts.length] as Part;
}

const isLedger = (file: string) => file.startsWith("ledger-");

async function said(part: Part, text: string): Promise<void> {
  const until = performance.now() + 30_000;
  while (!part.stderr().includes(text)) {
    if (part.child.exitCode !== null || performance.now() > until)
      throw new Error(`${part.name} did not say "${text}": ${part.stderr().slice(-500)}`);
    await Bun.sleep(20);
  }
}

function failuresOf(ledger: Ledger): string[] {
  return [...ledger.counts.failures].map(([what, count]) => `${count} times ${what}`);
}
