import { MongoClient } from "mongodb";
import { crashPoint } from "../errors/crash_point.ts";
import { messageOf } from "../errors/errors.ts";
import { serverCode } from "./mongodb_errors.ts";
import { initiateReplicaSet, untilPrimary } from "./replica_set.ts";

/** A mongod of this host's own, from an empty data directory to one that only two users may enter. */

export interface LocalUser {
  name: string;
  password: string;
}

export interface LocalDatabase {
  /** `127.0.0.1:27017`: the member's name in the replica set too. */
  host: string;
  replicaSet: string;
  /** The install's database, which the service may read, write and administer. */
  database: string;
  admin: LocalUser;
  service: LocalUser;
}

const DUPLICATE_USER = 51_003;

/**
 * Makes the replica set of one member, its administrator and the service's user. May be interrupted anywhere and run again: who
 * can log in as the administrator has been here before, and sets the service's password again.
 */
export async function setUpLocalDatabase(local: LocalDatabase): Promise<void> {
  if (!(await adminKnown(local))) {
    await initiateReplicaSet(local.host, local.replicaSet);
    // MongoDB lets a connection from loopback make the first user, and no other (the localhost exception).
    await withClient(local, undefined, async (client) => {
      await client.db("admin").command({ createUser: local.admin.name, pwd: local.admin.password, roles: ["root"] });
    });
    if (import.meta.crashPoints) crashPoint("admin.made");
  }
  await withClient(local, local.admin, async (client) => {
    const { name, password } = local.service;
    const roles = ["readWrite", "dbAdmin"].map((role) => ({ role, db: local.database }));
    const admin = client.db("admin");
    await untilPrimary(admin);
    await admin.command({ createUser: name, pwd: password, roles }).catch(async (thrown) => {
      if (serverCode(thrown) !== DUPLICATE_USER) throw thrown;
      await admin.command({ updateUser: name, pwd: password, roles });
    });
  });
}

// ---------------------------------------------------------------------------------------------------------------------

async function adminKnown(local: LocalDatabase): Promise<boolean> {
  try {
    await withClient(local, local.admin, async (client) => await client.db("admin").command({ connectionStatus: 1 }));
    return true;
  } catch (thrown) {
    if (/auth/i.test(messageOf(thrown))) return false;
    throw thrown;
  }
}

async function withClient<T>(
  { host }: LocalDatabase,
  user: LocalUser | undefined,
  work: (client: MongoClient) => Promise<T>,
): Promise<T> {
  const client = new MongoClient(`mongodb://${host}/?directConnection=true`, {
    serverSelectionTimeoutMS: 10_000,
    ...(user === undefined ? {} : { auth: { username: user.name, password: user.password }, authSource: "admin" }),
  });
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}
