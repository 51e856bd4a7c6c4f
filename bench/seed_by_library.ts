import { randomBytes } from "node:crypto";
import { MongoClient } from "mongodb";
import { openFieldEncryption } from "../src/index.ts";
import { FIELD } from "./stage.ts";

/** So many records of 2 KiB, sealed by the library as its environment says: for keys that only a token can use. */

const BATCH = 1000;
const PLAINTEXT_BYTES = 1880;
const records = Number(process.argv[2]);
const kek = await openFieldEncryption();
const client = new MongoClient(process.env["CERTAUTOPILOT_DATABASE_URI"] ?? "");
const collection = client.db(process.env["CERTAUTOPILOT_DATABASE_NAME"]).collection<{ _id: number }>(FIELD.collection);
const plaintext = randomBytes(PLAINTEXT_BYTES);
for (let start = 0; start < records; start += BATCH) {
  const ids = Array.from({ length: Math.min(BATCH, records - start) }, (_, index) => start + index);
  const place = (id: number) => ({ collection: FIELD.collection, id, field: FIELD.path });
  const documents = ids.map(async (id) => ({ _id: id, [FIELD.path]: await kek.encrypt(plaintext, place(id)) }));
  await collection.insertMany(await Promise.all(documents), { ordered: false });
}
await client.close();
await kek.close();
