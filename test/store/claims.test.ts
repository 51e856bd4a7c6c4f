import { expect, test } from "bun:test";
import type { Claim } from "../../src/protocol/documents.ts";
import { dropClaim, readClaim, takeClaim } from "../../src/store/claims.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { refusalOf } from "../harness/codes.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** Claims against a real mongod: one owner at a time, by the server's clock, and none by what cannot be read. */

const NAME = "pkcs11-init 2";

test("one has it until it runs out or is given back; one that is half-written or forged is named and left as it is", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const claims = db.collection<{ _id: string }>("kek_claims");
  const mine = (await takeClaim(store, NAME, 60_000)) as Claim;
  expect(await takeClaim(store, NAME, 60_000)).toBeUndefined();
  expect(await readClaim(store, NAME)).toEqual(mine);
  await claims.updateOne({ _id: NAME }, { $set: { expires_at: new Date(0) } });
  const next = (await takeClaim(store, NAME, 60_000)) as Claim;
  expect(next.owner).not.toBe(mine.owner);
  // Whoever was late gives nothing back that is another's.
  await dropClaim(store, mine);
  expect(await readClaim(store, NAME)).toEqual(next);
  await dropClaim(store, next);

  const forged = [
    {},
    { owner: "x" },
    { expires_at: new Date(0) },
    { owner: "x", expires_at: "soon" },
    { owner: 5, expires_at: new Date(0) },
  ];
  for (const members of forged) {
    await claims.insertOne({ _id: NAME, ...members });
    const refused = await refusalOf(() => takeClaim(store, NAME, 60_000));
    expect([refused?.code, refused?.message]).toEqual([
      "document_invalid",
      expect.stringContaining('kek_claims: document "pkcs11-init 2": '),
    ]);
    expect(refused?.hint).toContain("delete the document");
    expect(await claims.findOne({ _id: NAME })).toEqual({ _id: NAME, ...members });
    await claims.deleteOne({ _id: NAME });
  }
  expect(await takeClaim(store, NAME, 60_000)).toMatchObject({ _id: NAME });
  await closeStore(store);
});
