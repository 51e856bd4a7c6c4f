import { randomBytes } from "node:crypto";
import { MongoClient } from "mongodb";
import { openFieldEncryption } from "../src/index.ts";

/**
 * A service with encrypted fields: so many reads and as many writes a second, begun at their times whatever the one before
 * took. A line for each operation on stdout: when it was due, and how many milliseconds later it was done. Until stdin ends.
 */

const [uri = "", database = "", collectionName = "", field = "", rate = "", records = ""] = process.argv.slice(2);
const kek = await openFieldEncryption();
const client = await new MongoClient(uri).connect();
const collection = client.db(database).collection<{ _id: number }>(collectionName);
const plaintext = randomBytes(1024);
// Records of its own: what the benchmark seeds has payloads that do not open.
const idOf = () => Number(records) + Math.floor(Math.random() * 1000);
const place = (id: number) => ({ collection: collectionName, id, field });

const write = async () => {
  const id = idOf();
  await kek.write(async () => {
    const envelope = await kek.encrypt(plaintext, place(id));
    await collection.updateOne(
      { _id: id },
      { $set: { [field]: envelope } },
      { upsert: true, writeConcern: { w: "majority", j: true } },
    );
  });
};
const read = async () => {
  const id = idOf();
  const found = (await collection.findOne({ _id: id })) as Record<string, unknown> | null;
  if (found !== null) await kek.decrypt(found[field], place(id));
};

for (let id = Number(records); id < Number(records) + 1000; id += 1)
  await collection.updateOne(
    { _id: id },
    { $set: { [field]: await kek.encrypt(plaintext, place(id)) } },
    { upsert: true },
  );
process.stdout.write("joined\n");
let going = true;
process.stdin.on("end", () => (going = false)).resume();
const every = 1000 / Number(rate);
/** When the monotonic clock was at zero, by the other one. */
const epoch = Date.now() - performance.now();
const flying = new Set<Promise<void>>();
for (let due = performance.now(); going; due += every) {
  const wait = due - performance.now();
  if (wait > 0) await Bun.sleep(wait);
  for (const [kind, work] of [
    ["read", read],
    ["write", write],
  ] as const) {
    const at = due;
    const done: Promise<void> = work().then(() => {
      process.stdout.write(`${kind} ${Math.round(epoch + at)} ${performance.now() - at}\n`);
      flying.delete(done);
    });
    flying.add(done);
  }
}
await Promise.all(flying);
await client.close();
await kek.close();
