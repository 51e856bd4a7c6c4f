import { expect, test } from "bun:test";
import { openAuditor } from "../../src/store/audit_log.ts";
import { beginImport, completeImport, readImport } from "../../src/store/imports.ts";
import { closeStore, openStore } from "../../src/store/store.ts";
import { freshDatabase } from "../harness/mongo.ts";

/** Which import may begin, against a real mongod. */

test("an import is begun again while it runs, and never once it has ended; another archive's is in the way from its first moment", async () => {
  const { uri, name, db } = await freshDatabase();
  const store = await openStore({ uri, name }, { appName: "test" });
  const audit = { secret: "audit-secret-of-this-test", file: undefined, syslog: undefined, syslogCaFile: undefined };
  const auditor = openAuditor({ audit }, "test", { log: { info: () => {}, warn: () => {} }, stream: "stderr" });
  const one = {
    archive_id: "5b0c7a3e-8f1e-4f0e-9b1e-0a1b2c3d4e5f",
    from_install: "3f0f7a3e-8f1e-4f0e-9b1e-0a1b2c3d4e5f",
  };
  const two = { ...one, archive_id: "6c0c7a3e-8f1e-4f0e-9b1e-0a1b2c3d4e5f" };
  const begin = (archive: typeof one) => beginImport(store, auditor, archive, { ...archive });
  // Both at the same moment, as after two processes were started.
  expect(await Promise.all([begin(one), begin(one)])).toEqual([undefined, undefined]);
  expect(await begin(two)).toMatchObject({ ...one, state: "running" });
  await completeImport(store, auditor, one.archive_id, { ...one });
  // A twin that had looked before the other ended.
  expect(await begin(one)).toMatchObject({ ...one, state: "completed" });
  expect(await readImport(store)).toMatchObject({ ...one, state: "completed" });
  const events = await db.collection("audit_log").find().sort({ seq: 1 }).toArray();
  expect(events.map(({ event, data }) => [event, data.resumed])).toEqual([
    ["secrets.import_started", false],
    ["secrets.import_started", true],
    ["secrets.imported", undefined],
  ]);
  await closeStore(store);
});
