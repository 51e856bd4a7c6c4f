import { expect, test } from "bun:test";
import { setWriteFence } from "../../src/fleet/write_fence_setter.ts";
import type { FenceRecord } from "../../src/protocol/documents.ts";
import { registerField } from "../../src/store/fields.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { readValidators, sameOptions, setValidator } from "../../src/store/validators.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** The fence against real validators, with a crash between the record and the collection. */

const RULES = { validator: { $jsonSchema: { required: ["owner"] } }, validationLevel: "strict" };
const FIELDS = [{ _id: "c:f", collection: "c", path: "f", registered_by: "test" }];
const nobody = () => undefined;

for (const own of [{}, RULES, { ...RULES, validationAction: "warn" }, { ...RULES, validationLevel: "off" }]) {
  test(`a fence that is lifted twice, the first time only on paper, restores ${JSON.stringify(own)}`, async () => {
    const { uri, name, db } = await freshDatabase();
    await db.createCollection("c", own);
    const store = await openStore({ uri, name }, { appName: "test" });
    await registerField(store, { collection: "c", path: "f" }, "test");
    const live = async () => (await readValidators(store, ["c"])).get("c") ?? {};
    let record: FenceRecord = { versions: [], collections: [] };
    const keep = {
      record: async (wanted: FenceRecord) => {
        record = wanted;
        return true;
      },
      stands: async () => true,
    };

    await setWriteFence(store, { fields: FIELDS, before: record, versions: [1], recorder: keep, tell: nobody });
    const rejected = db.collection("c").insertOne({ owner: "me", f: { kek_version: 1 } } as never);
    expect(rejected).rejects.toMatchObject({ code: 121 });
    await rejected.catch(() => undefined);
    await db.collection("c").insertOne({ owner: "me", f: { kek_version: 2 } } as never);

    // The record says lifted; whoever wrote it died before it told the collection.
    const [entry] = record.collections;
    const onPaper = {
      versions: [],
      collections: [{ collection: "c", own: entry?.own ?? "", expected: entry?.own ?? "" }],
    };
    await setWriteFence(store, { fields: FIELDS, before: onPaper, versions: [], recorder: keep, tell: nobody });
    expect(sameOptions(await live(), own)).toBe(true);
    // And a record that was refused changes nothing.
    expect(
      await setWriteFence(store, {
        fields: FIELDS,
        before: record,
        versions: [1],
        recorder: { ...keep, record: async () => false },
        tell: nobody,
      }),
    ).toBeUndefined();
    // Nor one that stands no longer when its turn comes.
    expect(
      await setWriteFence(store, {
        fields: FIELDS,
        before: record,
        versions: [1],
        recorder: { ...keep, stands: async () => false },
        tell: nobody,
      }),
    ).toBeUndefined();
    expect(sameOptions(await live(), own)).toBe(true);
    await closeStore(store);
  });
}

test("a validator is confirmed by a majority, whatever the cluster's default is", async () => {
  const { uri, name, db } = await freshDatabase();
  await db.createCollection("c");
  const store = await openStore({ uri: `${uri}&monitorCommands=true`, name }, { appName: "test" });
  const sent: Record<string, unknown>[] = [];
  store.client.on("commandStarted", ({ commandName, command }) => {
    if (commandName === "collMod") sent.push(command);
  });
  expect(await setValidator(store, "c", RULES, { may: async () => true, tell: nobody })).toBe("set");
  expect(sent.map((command) => command["writeConcern"])).toEqual([{ w: "majority", j: true }]);
  await closeStore(store);
});
