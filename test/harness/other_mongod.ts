import { afterAll } from "bun:test";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Document, MongoClient, MongoNetworkError } from "mongodb";
import { initiateReplicaSet } from "../../src/store/replica_set.ts";
import { mongodBinary, unusedPort } from "./mongod_here.ts";

/** MongoDB as an operator should not run it for this: absent, alone, or with users who lack a right. */

/** A mongod that is no member of any replica set. @returns its host and port. */
export async function standaloneMongod(): Promise<string> {
  const { host } = await startMongod([]);
  const client = await new MongoClient(`mongodb://${host}/?directConnection=true`).connect();
  await client.close();
  return host;
}

/**
 * A replica set of one member for one test, which may do to it what others could not bear: make it step down, or have it answer
 * as it is told to (`failCommand`). @returns its URI.
 */
export async function ownReplicaSet(): Promise<string> {
  const { host } = await startMongod(["--replSet", "rs0", "--setParameter", "enableTestCommands=1"]);
  await initiateReplicaSet(host, "rs0");
  return `mongodb://${host}/?replicaSet=rs0`;
}

/** A mongod that waits for `rs.initiate()`. @returns its host and port. */
export async function uninitiatedMongod(): Promise<string> {
  const { host } = await startMongod(["--replSet", "rs0"]);
  const client = await new MongoClient(`mongodb://${host}/?directConnection=true`).connect();
  await client.close();
  return host;
}

export interface Pair {
  primary: string;
  secondary: string;
  /** On each of them alone. */
  onPrimary: MongoClient;
  onSecondary: MongoClient;
}

/** A replica set of two members, of which one never becomes primary. */
export async function primaryAndSecondary(): Promise<Pair> {
  const [one, two] = await Promise.all([startMongod(["--replSet", "rs0"]), startMongod(["--replSet", "rs0"])]);
  const clientOf = async (host: string) => await new MongoClient(`mongodb://${host}/?directConnection=true`).connect();
  const [onPrimary, onSecondary] = await Promise.all([clientOf(one.host), clientOf(two.host)]);
  const members = [
    { _id: 0, host: one.host },
    { _id: 1, host: two.host, priority: 0, votes: 0 },
  ];
  await onPrimary.db("admin").command({ replSetInitiate: { _id: "rs0", members } });
  await untilHello(onSecondary, (hello) => hello["secondary"] === true && hello["primary"] === one.host);
  one.stops.push(() => onPrimary.close());
  two.stops.push(() => onSecondary.close());
  return { primary: one.host, secondary: two.host, onPrimary, onSecondary };
}

/** Waits until a member says so of itself. */
export async function untilHello(client: MongoClient, holds: (hello: Document) => boolean): Promise<void> {
  const began = performance.now();
  while (!holds(await adminCommand(client, { hello: 1 }))) {
    if (performance.now() - began > 60_000)
      throw new Error("a member of the replica set is not as it should be in time");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A member that steps down, or is taken out of its set, closes its connections: then the command is sent again on another. */
export async function adminCommand(client: MongoClient, command: Document): Promise<Document> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await client.db("admin").command(command);
    } catch (thrown) {
      if (!(thrown instanceof MongoNetworkError) || tries === 50) throw thrown;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

export interface GuardedMongod {
  host: string;
  /** A URI for one of its users. */
  uri(user: string, password: string): string;
  /** As the user that may do everything. */
  root: MongoClient;
}

/** A replica set with users: `root`, `app` with rights on `database`, and `stranger` with none. */
export async function guardedMongod(database: string, password: string): Promise<GuardedMongod> {
  const { host, stops } = await startMongod(["--replSet", "rs0"], (path) => {
    const keyFile = join(path, "key");
    writeFileSync(keyFile, randomBytes(96).toString("base64"), { mode: 0o600 });
    return ["--keyFile", keyFile];
  });
  await initiateReplicaSet(host, "rs0");
  const rootPassword = randomBytes(8).toString("hex");
  // MongoDB lets whoever sits on its own host make the first user.
  const first = await new MongoClient(`mongodb://${host}/?directConnection=true`).connect();
  await first.db("admin").command({ createUser: "root", pwd: rootPassword, roles: ["root"] });
  await first.close();
  const uri = (user: string, secret: string) =>
    `mongodb://${user}:${encodeURIComponent(secret)}@${host}/?replicaSet=rs0&authSource=admin`;
  const root = await new MongoClient(uri("root", rootPassword)).connect();
  const roles = ["readWrite", "dbAdmin"].map((role) => ({ role, db: database }));
  await root.db("admin").command({ createUser: "app", pwd: password, roles });
  await root.db("admin").command({ createUser: "stranger", pwd: password, roles: [] });
  // While mongod runs: a client that ends its sessions waits for it.
  stops.push(() => root.close());
  return { host, uri, root };
}

// ---------------------------------------------------------------------------------------------------------------------

async function startMongod(options: string[], more: (directory: string) => string[] = () => []) {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-mongod-"));
  const data = join(directory, "data");
  mkdirSync(data);
  const port = await unusedPort();
  const place = [
    "--dbpath",
    data,
    "--logpath",
    join(directory, "log"),
    "--port",
    String(port),
    "--bind_ip",
    "127.0.0.1",
  ];
  const child = spawn(mongodBinary(), [...options, ...more(directory), ...place], { stdio: "ignore" });
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stops: (() => Promise<void>)[] = [];
  afterAll(async () => {
    for (const stop of stops) await stop();
    child.kill("SIGKILL");
    await gone;
    rmSync(directory, { recursive: true, force: true });
  });
  return { host: `127.0.0.1:${port}`, stops };
}
