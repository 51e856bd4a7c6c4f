import {
  type EncryptedCollection,
  type FieldEncryption,
  KekError,
  loadConfig,
  openFieldEncryption,
} from "certautopilot";
import { MongoClient, ObjectId } from "mongodb";

/** A user's program, compiled and not run: with this checkout's driver by `tsc`, with another by test/unit/library_types.test.ts. */

interface User {
  _id: ObjectId;
  name: string;
  token: string;
  recovery?: string | null;
  key?: { pem: string; der?: Uint8Array; made: Date };
  tags: string[];
}

export async function service(): Promise<void> {
  await using encryption: FieldEncryption = await openFieldEncryption(loadConfig(), { role: "library" });
  const client = await new MongoClient("mongodb://127.0.0.1/").connect();
  const collection = client.db("vault").collection<User>("users");
  const users: EncryptedCollection<User> = encryption.collection<User>(collection, {
    fields: { token: "text", recovery: "text", "key.pem": "text", "key.der": "bytes" },
    newId: () => new ObjectId(),
  });
  const { insertedId } = await users.insertOne({ name: "ada", token: "s3cret", tags: [] });
  const read = await users.findOne({ _id: insertedId, name: "ada" });
  const token: string | undefined = read?.token;
  const der: Uint8Array | undefined = read?.key?.der;
  await client.withSession(async (session) => {
    await users.updateOne(
      { _id: insertedId },
      { $set: { token: `${token}!`, "key.pem": "x" } },
      { session, upsert: true },
    );
  });
  await users.replaceOne({ _id: insertedId }, { name: "ada", token: "new", tags: [] });
  for await (const { _id, tags } of users.find({ tags: "a" }, { limit: 2 }))
    console.log(_id.toHexString(), tags.length);
  const all: string[] = (await users.find({}).toArray()).map((user) => user.token);

  const place = { collection: "users", id: insertedId, field: "key.der" };
  const [envelope] = await encryption.encryptMany([{ plaintext: der ?? "none", place }]);
  const [bytes] = await encryption.decryptMany([{ envelope, place }]);
  try {
    await encryption.write(
      async () => await collection.updateOne({ _id: insertedId }, { $set: { "key.der": envelope as never } }),
    );
  } catch (thrown) {
    if (thrown instanceof KekError && thrown.code === "write_rejected") console.error(thrown.hint, bytes?.length, all);
  }
  // Documents of no declared type: any path may be named.
  await encryption
    .collection(client.db("vault").collection("loose"), { fields: { "a.b": "text" } })
    .insertOne({ a: { b: "c" } });
}

/** What the compiler refuses. */
export async function wrong(
  encryption: FieldEncryption,
  users: EncryptedCollection<User>,
  _id: ObjectId,
): Promise<void> {
  const collection = new MongoClient("mongodb://127.0.0.1/").db("vault").collection<User>("users");
  // @ts-expect-error there is no such field
  encryption.collection<User>(collection, { fields: { tokn: "text" } });
  // @ts-expect-error a field of bytes is not text
  encryption.collection<User>(collection, { fields: { "key.der": "text" } });
  // @ts-expect-error a date is no secret
  encryption.collection<User>(collection, { fields: { "key.made": "bytes" } });
  // @ts-expect-error no _id: more than one record may match
  await users.updateOne({ name: "ada" }, { $set: { token: "x" } });
  // @ts-expect-error a token is text
  await users.insertOne({ name: "ada", token: 5, tags: [] });
  // @ts-expect-error a new record needs its name
  await users.insertOne({ token: "x", tags: [] });
  // @ts-expect-error an envelope belongs to one record
  await users.updateMany({ _id }, { $set: { token: "x" } });
  // @ts-expect-error an error's codes are known
  if (new KekError("usage", "", "").code === "no_such_code") return;
}
