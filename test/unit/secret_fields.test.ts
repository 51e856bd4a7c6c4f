import { expect, test } from "bun:test";
import { KekError } from "../../src/errors/errors.ts";
import { encryptedCollection } from "../../src/library/encrypted_collection.ts";
import { type SecretField, secretsIn, secretsInUpdate } from "../../src/library/secret_fields.ts";

/** Where plaintext could pass by unseen, and reach MongoDB as it is. */

const FIELDS: SecretField[] = [
  { path: "token", kind: "text" },
  { path: "key.pem", kind: "text" },
];
const SECRET = "s3cret-that-nobody-quotes";

function refusal(work: () => unknown): KekError {
  try {
    work();
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(KekError);
    expect((thrown as KekError).code).toBe("usage");
    expect(`${(thrown as KekError).message} ${(thrown as KekError).hint}`).not.toContain(SECRET);
    return thrown as KekError;
  }
  throw new Error("it was taken");
}

test("a document whose secret stands where the driver would store it and nobody looks for it is refused", () => {
  class Converted {
    toBSON() {
      return { pem: SECRET };
    }
  }
  const documents: object[] = [
    { "key.pem": SECRET },
    { key: new Map([["pem", SECRET]]) },
    new Map([["token", SECRET]]),
    { key: new Converted() },
    { key: { toBSON: () => ({ pem: SECRET }) } },
    { key: [{ pem: SECRET }] },
  ];
  for (const document of documents) refusal(() => secretsIn(document, FIELDS));
  expect(secretsIn({ token: SECRET, key: { pem: SECRET } }, FIELDS)).toHaveLength(2);
  expect(secretsIn({ "some.other": 1, key: { "p.em": 1 } }, FIELDS)).toEqual([]);
});

test("an update that reaches an encrypted field through an array is refused", () => {
  for (const key of ["key.0.pem", "key.$.pem", "key.$[].pem", "key.$[each].pem", "0.key.pem", "token.0"]) {
    refusal(() => secretsInUpdate({ $set: { [key]: SECRET } }, FIELDS));
  }
  refusal(() => secretsInUpdate({ $set: { "key.0": { pem: SECRET } } }, FIELDS));
  refusal(() => secretsInUpdate({ $set: { key: { "x.y": 1, pem: { a: SECRET } } } }, FIELDS));
  refusal(() => secretsInUpdate({ $rename: { other: "key.0.pem" } }, FIELDS));
  expect(secretsInUpdate({ $set: { "key.pem": SECRET, "list.0": "open" } }, FIELDS)).toHaveLength(1);
});

test("a change goes to the very record whose _id the envelopes are bound to", async () => {
  const sent: unknown[] = [];
  const driver = {
    dbName: "app",
    collectionName: "users",
    findOne: async () => null,
    updateOne: async (filter: object) => {
      sent.push(filter);
      return {};
    },
  };
  const kek = {
    encryptMany: async (items: readonly unknown[]) => items.map(() => ({})),
    decryptMany: async () => [],
    write: async <T>(work: () => Promise<T>) => await work(),
  };
  // biome-ignore lint/suspicious/noExplicitAny: as little of a driver as is called here
  const users = encryptedCollection<{ _id: any; token: string }>(kek as any, "app", driver as any, {
    fields: { token: "text" },
  });
  const change = async (_id: unknown, options: object = {}) => {
    const thrown = await users
      .updateOne({ _id }, { $set: { token: SECRET } }, { upsert: true, ...options })
      .catch((reason) => reason);
    return thrown instanceof KekError ? thrown.code : "sent";
  };
  // What is a query to the driver, and no operator to look at.
  expect(await change(new Map([["$in", [1, 2]]]))).toBe("usage");
  expect(await change({ _bsontype: "BSONRegExp", pattern: ".", options: "" })).toBe("usage");
  expect(await change("A", { collation: { locale: "en", strength: 2 } })).toBe("usage");
  expect(sent).toEqual([]);
  expect(await change("A")).toBe("sent");
});
