import { setTimeout as sleep } from "node:timers/promises";
import { type Db, MongoClient } from "mongodb";
import { messageOf } from "../errors/errors.ts";

/** Makes a fresh mongod a replica set of one member, and waits until it is primary. */
export async function initiateReplicaSet(host: string, name: string): Promise<void> {
  const client = new MongoClient(`mongodb://${host}/?directConnection=true`, { serverSelectionTimeoutMS: PATIENCE_MS });
  try {
    const admin = client.db("admin");
    const config = { _id: name, members: [{ _id: 0, host }] };
    await admin.command({ replSetInitiate: config }).catch((thrown) => {
      if (!messageOf(thrown).includes("already initialized")) throw thrown;
    });
    await untilPrimary(admin);
  } finally {
    await client.close();
  }
}

/** A member that was started a moment ago is none yet, also where it is the only one. */
export async function untilPrimary(admin: Db): Promise<void> {
  const began = performance.now();
  for (;;) {
    const hello = await admin.command({ hello: 1 });
    if (hello["isWritablePrimary"] === true) return;
    if (performance.now() - began > PATIENCE_MS) throw new Error("no primary in time");
    await sleep(50);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const PATIENCE_MS = 30_000;
