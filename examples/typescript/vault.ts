import process from "node:process";
import { KekError, openFieldEncryption } from "certautopilot";
import { Hono } from "hono";
import { MongoClient, ObjectId } from "mongodb";

/** A vault for API tokens, as a member of the fleet: it encrypts by itself, and follows every rotation without knowing of it. */

interface Secret {
  _id: ObjectId;
  name: string;
  token: string;
  key?: { pem: string };
}

const encryption = await openFieldEncryption();
// The application's own connection, with its own user if you like.
const uri = process.env["VAULT_DATABASE_URI"] ?? process.env["CERTAUTOPILOT_DATABASE_URI"] ?? "";
const client = await new MongoClient(uri).connect();
const collection = client.db(process.env["CERTAUTOPILOT_DATABASE_NAME"]).collection<Secret>("vault");
const vault = encryption.collection<Secret>(collection, {
  fields: { token: "text", "key.pem": "text" },
  newId: () => new ObjectId(),
});

const app = new Hono();

app.post("/secrets", async (context) => {
  const { name, token, key } = await context.req.json<Omit<Secret, "_id">>();
  const { insertedId } = await vault.insertOne({ name, token, ...(key === undefined ? {} : { key }) });
  return context.json({ id: insertedId.toHexString() }, 201);
});

app.get("/secrets/:id", async (context) => {
  const secret = await vault.findOne({ _id: idOf(context.req.param("id")) });
  if (secret === null) return context.json({ error: "no such secret" }, 404);
  return context.json({ name: secret.name, token: secret.token, key: secret.key });
});

app.patch("/secrets/:id", async (context) => {
  const { token } = await context.req.json<{ token: string }>();
  const { matchedCount } = await vault.updateOne({ _id: idOf(context.req.param("id")) }, { $set: { token } });
  return matchedCount === 0 ? context.json({ error: "no such secret" }, 404) : context.body(null, 204);
});

app.put("/secrets/:id", async (context) => {
  const { name, token, key } = await context.req.json<Omit<Secret, "_id">>();
  const secret = { name, token, ...(key === undefined ? {} : { key }) };
  const { matchedCount } = await vault.replaceOne({ _id: idOf(context.req.param("id")) }, secret);
  return matchedCount === 0 ? context.json({ error: "no such secret" }, 404) : context.body(null, 204);
});

app.get("/readyz", (context) =>
  context.json({ trouble: encryption.problem ?? null }, encryption.problem === undefined ? 200 : 503),
);

app.onError((thrown, context) => {
  // A KekError's message names fields and versions, never a value.
  const { code, message } = thrown instanceof KekError ? thrown : { code: "unexpected", message: thrown.name };
  console.error(`${code}: ${message}`);
  // "fenced" and the like pass by themselves: whoever asks may ask again.
  const passing = ["fenced", "mongodb_unavailable", "hsm_unavailable", "closed"].includes(code);
  return context.json({ error: code }, passing ? 503 : 500);
});

const server = Bun.serve({ hostname: "127.0.0.1", port: Number(process.env["VAULT_PORT"] ?? 8080), fetch: app.fetch });
console.error(`listening on ${server.url.origin}`);

process.once("SIGTERM", async () => {
  await server.stop();
  await encryption.close();
  await client.close();
});

function idOf(text: string): ObjectId {
  return ObjectId.createFromHexString(text);
}
