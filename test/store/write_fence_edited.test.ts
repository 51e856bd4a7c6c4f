import { expect, test } from "bun:test";
import { setWriteFence } from "../../src/fleet/write_fence_setter.ts";
import type { FenceRecord } from "../../src/protocol/documents.ts";
import { registerField } from "../../src/store/fields.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { readValidators } from "../../src/store/validators.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** An operator edits a collection's rules beside the write fence. Removing the fence leaves the edited rules. */

type Rules = Record<string, unknown>;
const OWNER = { owner: { $exists: true } };
const NAME = { name: { $exists: true } };
const FIELDS = [{ _id: "c:f", collection: "c", path: "f", registered_by: "test" }];
const nobody = () => undefined;

const cases: [string, (clause: Rules) => Rules, Rules][] = [
  ["their rules replaced by one beside the clause", (clause) => ({ ...clause, ...NAME }), NAME],
  ["their rules taken out", (clause) => ({ $and: [clause] }), {}],
  ["a rule added beside $and", (clause) => ({ $and: [OWNER, clause], ...NAME }), { $and: [OWNER], ...NAME }],
  ["only a rule beside $and", (clause) => ({ $and: [clause], ...NAME }), NAME],
];
test.each(cases)("removing the write fence leaves edited rules: %s", async (_, edit, left) => {
  const { uri, name, db } = await freshDatabase();
  await db.createCollection("c", { validator: OWNER });
  const store = await openStore({ uri, name }, { appName: "test" });
  await registerField(store, { collection: "c", path: "f" }, "test");
  const live = async () => (await readValidators(store, ["c"])).get("c")?.validator ?? {};
  let record: FenceRecord = { versions: [], collections: [] };
  const keep = {
    record: async (wanted: FenceRecord) => {
      record = wanted;
      return true;
    },
    stands: async () => true,
  };

  await setWriteFence(store, { fields: FIELDS, before: record, versions: [1], recorder: keep, tell: nobody });
  const [, clause] = (await live())["$and"] as Rules[];
  await db.command({ collMod: "c", validator: edit(clause ?? {}) });
  const removed = await setWriteFence(store, {
    fields: FIELDS,
    before: record,
    versions: [],
    recorder: keep,
    tell: nobody,
  });
  expect(removed?.unfenced).toEqual([]);
  expect(await live()).toEqual(left);
  await db.collection("c").insertOne({ owner: "me", name: "mine", f: { kek_version: 1 } } as never);
  await closeStore(store);
});
