import { expect, test } from "bun:test";
import { MongoClient } from "mongodb";
import { library } from "../harness/library.ts";
import { until } from "../harness/program.ts";
import { heartbeat, kek, seededInstall } from "../harness/schedule.ts";

/** Setting a validator waits for every transaction on its collection: what else a process does must not wait with it. */

test("a process continues beating while the validator that it sets waits for somebody's transaction", async () => {
  const install = await seededInstall(5);
  await library(install, [1, 2], 2, "guard");
  expect((await kek(install, "rotate", "--to-version=2")).code).toBe(0);

  const client = await new MongoClient(install.uri).connect();
  // The transaction must live until a guard has looked, waits for it, and has beaten meanwhile.
  const lives = (seconds: number) =>
    client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: seconds });
  await lives(60);
  const session = client.startSession();
  session.startTransaction();
  await client.db(install.name).collection("secrets").insertOne({ of: "the application" }, { session });
  await lives(5);
  // A field that the fence does not cover yet: each process of the fleet sees to it.
  const field = { _id: "secrets:later" as never, collection: "secrets", path: "later" };
  await install.db.collection("kek_fields").insertOne(field);
  await until("a collMod that waits", async () => {
    const filter = { currentOp: 1, "command.collMod": "secrets", "command.$db": install.name, waitingForLock: true };
    return (await client.db("admin").command(filter))["inprog"].length > 0;
  });
  const before = (await heartbeat(install, "guard"))?.["updated_at"];
  await until("a heartbeat", async () => (await heartbeat(install, "guard"))?.["updated_at"] > before, 10_000);
  // Nor does anybody else who writes to the collection wait for the end of that transaction.
  const other = await new MongoClient(install.uri).connect();
  for (let write = 0; write < 10; write += 1) {
    const asked = performance.now();
    await other.db(install.name).collection("secrets").insertOne({ of: "another" });
    expect(performance.now() - asked).toBeLessThan(2000);
    await Bun.sleep(200);
  }
  await other.close();
  await session.commitTransaction();
  await session.endSession();
  await until("the field is fenced", async () => {
    const [entry] = await install.db.listCollections({ name: "secrets" }).toArray();
    return JSON.stringify((entry as { options?: object }).options).includes("later.kek_version");
  });
  await client.close();
});
