import { readFileSync } from "node:fs";
import { EJSON } from "bson";
import { type Document, MongoClient } from "mongodb";

/** What a test does to a MongoDB that only a host's own network reaches: run there, with the words of one act. */

const URI = "mongodb://127.0.0.1:27017/?directConnection=true";
const DATABASE = "certautopilot";
const FIELDS = { users: "totp_seed", servers: "tls_key" } as const;

const client = await new MongoClient(URI, { writeConcern: { w: 1, journal: true } }).connect();
const db = client.db(DATABASE);

/** Each act by its name. */
const ACTS: Record<string, (...words: string[]) => Promise<void>> = {
  /** A replica set of one member, and the service's user. */
  async initiate(host) {
    await client.db("admin").command({ replSetInitiate: { _id: "rs0", members: [{ _id: 0, host }] } });
    while (!(await client.db("admin").command({ hello: 1 }))["isWritablePrimary"]) await pause(50);
    const roles = ["readWrite", "dbAdmin"].map((role) => ({ role, db: DATABASE }));
    await client.db("admin").command({ createUser: "certautopilot", pwd: "s3cret", roles });
  },

  /** Secrets in two fields, sealed by the host's own `serve`, so many in each. */
  async records(count, tokenFile) {
    const token = readFileSync(tokenFile as string, "utf8").trim();
    for (const [collection, field] of Object.entries(FIELDS)) {
      const items = Array.from({ length: Number(count) }, (_, id) => {
        return { collection, id, field, plaintext: Buffer.from(`${field} ${id}`).toString("base64") };
      });
      const answer = await fetch("http://127.0.0.1:8181/v1/encrypt", {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        body: JSON.stringify({ items }),
      });
      if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
      const sealed = EJSON.parse(await answer.text()) as { items: { envelope: Document }[] };
      const records = sealed.items.map(({ envelope }, id) => ({ _id: id as never, [field]: envelope }));
      await db.collection(collection).insertMany(records);
    }
  },

  /** Keeps some records as they are now, to be put back past the fence. */
  async keep() {
    await db
      .collection("users")
      .aggregate([{ $limit: 4 }, { $out: "kept" }])
      .toArray();
  },
  async "put back"() {
    for await (const { _id, ...record } of db.collection("kept").find())
      await db.collection("users").replaceOne({ _id }, record, { bypassDocumentValidation: true });
    await db.collection("kept").drop();
  },

  async damage() {
    const field = `${FIELDS.users}.wrapped_dek`;
    await db.collection("users").updateOne({ _id: 7 as never }, { $set: { [field]: Buffer.alloc(60) } });
  },
  async unset() {
    await db.collection("users").updateOne({ _id: 7 as never }, { $unset: { [FIELDS.users]: "" } });
  },

  /** Waits until the open rotation moves records. */
  async "phase 2"() {
    while ((await db.collection("kek_rotations").findOne({ state: "running", phase: 2 })) === null) await pause(20);
  },

  /** What a page has for mongosh: a line of JavaScript. */
  async shell(script) {
    const collections = (name: string) => new Proxy({}, { get: (_, key: string) => handOf(name, key) });
    const handOf = (name: string, key: string) => ({
      renameCollection: async (to: string) => await client.db(name).collection(key).rename(to),
    });
    await new Function("db", `return ${script}`)({ getSiblingDB: collections });
  },
};

const [act = "", ...words] = process.argv.slice(2);
try {
  const known = ACTS[act];
  if (known === undefined) throw new Error(`there is no act "${act}"`);
  await known(...words);
} finally {
  await client.close();
}

// ---------------------------------------------------------------------------------------------------------------------

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}
