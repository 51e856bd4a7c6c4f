import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { mongodHints } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";
import { initiateReplicaSet } from "../store/replica_set.ts";

/** A mongod of one's own: a replica set of one member on loopback, in a directory that its owner removes. */
export interface PrivateMongod {
  uri: string;
  pid: number;
  stop(): Promise<void>;
}

/** @throws KekError `mongodb_unavailable` when there is no mongod on this machine, or it does not come up. */
export async function startPrivateMongod(directory: string): Promise<PrivateMongod> {
  const binary = findMongod();
  const data = join(directory, "mongod");
  mkdirSync(data, { recursive: true, mode: 0o700 });
  const port = await freePort();
  const options = ["--replSet", "rs0", "--dbpath", data, "--port", String(port), "--bind_ip", "127.0.0.1", "--quiet"];
  const child = spawn(binary, [...options, "--logpath", join(directory, "mongod.log")], { stdio: "ignore" });
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  try {
    await initiateReplicaSet(`127.0.0.1:${port}`, "rs0");
  } catch (thrown) {
    child.kill("SIGKILL");
    throw new KekError(
      "mongodb_unavailable",
      `${binary} does not come up on port ${port}`,
      `see ${join(directory, "mongod.log")}`,
      { cause: thrown },
    );
  }
  return { uri: `mongodb://127.0.0.1:${port}/?replicaSet=rs0`, pid: child.pid ?? 0, stop: () => stop(child, gone) };
}

// ---------------------------------------------------------------------------------------------------------------------

function findMongod(): string {
  const { binary, path } = mongodHints();
  const found = binary ?? path.map((directory) => join(directory, "mongod")).find((candidate) => existsSync(candidate));
  if (found !== undefined) return found;
  throw new KekError(
    "mongodb_unavailable",
    "there is no mongod on this machine",
    "install MongoDB 6 or newer, or set CERTAUTOPILOT_MONGOD to a mongod; in a checkout, ./scripts/demo fetches one",
  );
}

/** Asked of the kernel and given back: another program could take it before mongod does, which then fails to start. */
async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() =>
        typeof address === "object" && address !== null ? resolve(address.port) : reject(new Error("no port")),
      );
    });
  });
}

/** SIGTERM is a clean shutdown; its data directory is thrown away, so it need not take its time. */
async function stop(child: ChildProcess, gone: Promise<void>): Promise<void> {
  const IMPATIENT_MS = 3000;
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), IMPATIENT_MS);
  await gone;
  clearTimeout(timer);
}
