import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MongoClient } from "mongodb";
import { unusedPort } from "../harness/mongod_here.ts";
import { TcpProxy } from "./tcp_proxy.ts";
import { Volume } from "./volume.ts";

/** A replica set of three mongods, each behind a proxy, that can be killed, paused, cut off, starved of disk, or emptied. */

const NAME = "torture";
const MEMBERS = [0, 1, 2] as const;
/** Small enough that a minute of traffic goes round in it, large enough for every pause that a schedule makes. */
const OPLOG_MB = "256";
const ELECTION_MS = 1500;

interface Mongod {
  readonly port: number;
  readonly proxy: TcpProxy;
  readonly directory: string;
  /** Of the one member whose disk can be filled. */
  readonly volume: Volume | undefined;
  child: ChildProcess | undefined;
}

export class ReplicaSet {
  readonly uri: string;
  readonly #binary: string;
  readonly #members: Mongod[];

  private constructor(binary: string, members: Mongod[]) {
    this.#binary = binary;
    this.#members = members;
    const hosts = members.map(({ proxy }) => `127.0.0.1:${proxy.port}`).join(",");
    this.uri = `mongodb://${hosts}/?replicaSet=${NAME}`;
  }

  /** @param electionMs how long a primary may be out of reach before another takes its place, and before it steps down itself. */
  static async start(binary: string, directory: string, electionMs = ELECTION_MS): Promise<ReplicaSet> {
    const members: Mongod[] = [];
    for (const number of MEMBERS) {
      const port = await unusedPort();
      const data = join(directory, `mongod-${number}`);
      mkdirSync(data);
      const volume = number === 2 ? Volume.mount(data, 700) : undefined;
      members.push({ port, proxy: await TcpProxy.open(() => port), directory: data, volume, child: undefined });
    }
    const set = new ReplicaSet(binary, members);
    for (const member of members) set.#spawn(member);
    await set.#initiate(electionMs);
    return set;
  }

  /** Whether the disk of a member can be filled on this machine. */
  get canFillDisk(): boolean {
    return this.#members.some(({ volume }) => volume !== undefined);
  }

  /** The number of the member that is primary now, as any of them says; undefined while there is none. */
  async primary(): Promise<number | undefined> {
    for (const [number, member] of this.#members.entries()) {
      const hello = await this.#admin(member, { hello: 1 }).catch(() => undefined);
      if (hello?.["isWritablePrimary"] === true) return number;
    }
    return undefined;
  }

  async secondaries(): Promise<number[]> {
    const primary = await this.primary();
    return MEMBERS.filter((number) => number !== primary);
  }

  kill(number: number): void {
    const member = this.#members[number] as Mongod;
    member.child?.kill("SIGCONT");
    member.child?.kill("SIGKILL");
    member.child = undefined;
  }

  signal(number: number, signal: "SIGSTOP" | "SIGCONT"): void {
    this.#members[number]?.child?.kill(signal);
  }

  proxy(number: number): TcpProxy {
    return (this.#members[number] as Mongod).proxy;
  }

  /** As after a disk was lost: it comes back with nothing, and copies everything from the others. */
  async empty(number: number): Promise<void> {
    const member = this.#members[number] as Mongod;
    const ended = member.child === undefined ? undefined : new Promise((done) => member.child?.once("exit", done));
    this.kill(number);
    await ended;
    if (member.volume === undefined) rmSync(member.directory, { recursive: true, force: true });
    else member.volume.clear();
    mkdirSync(member.directory, { recursive: true });
    this.#spawn(member);
  }

  fillDisk(): void {
    for (const { volume } of this.#members) volume?.fill();
  }

  async stepDown(): Promise<void> {
    const number = await this.primary();
    if (number === undefined) return;
    await this.#admin(this.#members[number] as Mongod, { replSetStepDown: 5, force: true }).catch(() => undefined);
  }

  restart(number: number): void {
    const member = this.#members[number] as Mongod;
    if (member.child === undefined || member.child.exitCode !== null || member.child.signalCode !== null)
      this.#spawn(member);
  }

  /** Everything is well again: all run, with room, and one is primary. */
  async heal(): Promise<void> {
    for (const [number, member] of this.#members.entries()) {
      member.volume?.free();
      member.proxy.heal();
      this.signal(number, "SIGCONT");
      this.restart(number);
    }
    await this.#steady();
  }

  close(): void {
    for (const [number, member] of this.#members.entries()) {
      this.kill(number);
      member.proxy.close();
      member.volume?.unmount();
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  #spawn(member: Mongod): void {
    const options = [
      ...["--replSet", NAME, "--dbpath", member.directory, "--port", String(member.port), "--bind_ip", "127.0.0.1"],
      ...["--oplogSize", OPLOG_MB, "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet"],
      ...["--logpath", `${member.directory}.log`, "--logappend"],
      // A process that is killed in a transaction leaves it open for so long.
      ...["--setParameter", "transactionLifetimeLimitSeconds=5"],
      ...["--setParameter", "diagnosticDataCollectionEnabled=false"],
    ];
    member.child = spawn(this.#binary, options, { stdio: "ignore" });
  }

  async #initiate(electionMs: number): Promise<void> {
    const members = this.#members.map(({ proxy }, _id) => ({ _id, host: `127.0.0.1:${proxy.port}` }));
    const settings = { electionTimeoutMillis: electionMs, heartbeatIntervalMillis: 300, catchUpTimeoutMillis: 2000 };
    const [first] = this.#members as [Mongod];
    const until = performance.now() + 30_000;
    for (;;) {
      try {
        await this.#admin(first, { replSetInitiate: { _id: NAME, members, settings } });
        break;
      } catch (thrown) {
        if (performance.now() > until) throw thrown;
        await Bun.sleep(200);
      }
    }
    await this.#steady();
  }

  /** One primary, two secondaries, all of them caught up enough to vote. */
  async #steady(): Promise<void> {
    const until = performance.now() + 60_000;
    for (;;) {
      const states = await this.#states();
      if (
        states.filter((state) => state === "PRIMARY").length === 1 &&
        states.filter((s) => s === "SECONDARY").length === 2
      )
        return;
      if (performance.now() > until) throw new Error(`the replica set does not come back: ${states.join(", ")}`);
      for (const number of MEMBERS) this.restart(number);
      await Bun.sleep(200);
    }
  }

  async #states(): Promise<string[]> {
    for (const member of this.#members) {
      const status = await this.#admin(member, { replSetGetStatus: 1 }).catch(() => undefined);
      if (status !== undefined) return status["members"].map(({ stateStr }: { stateStr: string }) => stateStr);
    }
    return [];
  }

  // biome-ignore lint/suspicious/noExplicitAny: answers of admin commands
  async #admin(member: Mongod, command: object): Promise<any> {
    const uri = `mongodb://127.0.0.1:${member.port}/?directConnection=true`;
    const client = new MongoClient(uri, {
      serverSelectionTimeoutMS: 500,
      connectTimeoutMS: 500,
      socketTimeoutMS: 5000,
    });
    try {
      return await client.db("admin").command(command as never);
    } finally {
      await client.close();
    }
  }
}
