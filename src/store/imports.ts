import type { AuditData } from "../audit/chain.ts";
import { crashPoint } from "../errors/crash_point.ts";
import type { ImportDoc } from "../protocol/documents.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { importOf } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";
import { type Store, serverNow } from "./store.ts";

/** `kek_imports`: the one archive that an install's secrets came from, and whether all of it is there. */

export async function readImport(store: Store): Promise<ImportDoc | undefined> {
  const doc = await imports(store).findOne({ _id: "import" });
  return doc === null ? undefined : importOf(doc);
}

/** Begins, or begins again: an event each time. @returns the import that is in the way: another archive's, or one that has ended. */
export async function beginImport(
  store: Store,
  auditor: Auditor,
  archive: { archive_id: string; from_install: string },
  data: AuditData,
): Promise<ImportDoc | undefined> {
  let inTheWay: ImportDoc | undefined;
  const begin = () =>
    audited(store, auditor, async (session) => {
      const found = await imports(store).findOne({ _id: "import" }, { session });
      const other = found === null ? undefined : importOf(found);
      inTheWay = other?.archive_id === archive.archive_id && other.state === "running" ? undefined : other;
      if (inTheWay !== undefined) return undefined;
      const doc: ImportDoc = {
        _id: "import",
        ...archive,
        state: "running",
        started_at: await serverNow(store, session),
      };
      if (found === null) await imports(store).insertOne(doc, { session });
      return [{ event: "secrets.import_started", data: { ...data, resumed: found !== null }, result: undefined }];
    });
  // Of two that begin at the same moment, the other's document is there the second time.
  await begin().catch((thrown) => {
    if (!isDuplicateKey(thrown)) throw thrown;
    return begin();
  });
  if (import.meta.crashPoints) crashPoint("import.begun");
  return inTheWay;
}

/** All of it is there and was verified. */
export async function completeImport(
  store: Store,
  auditor: Auditor,
  archiveId: string,
  data: AuditData,
): Promise<void> {
  await audited(store, auditor, async (session) => {
    const ended = await imports(store).updateOne(
      { _id: "import", archive_id: archiveId, state: "running" },
      { $set: { state: "completed", completed_at: await serverNow(store, session) } },
      { session },
    );
    if (import.meta.crashPoints) crashPoint("import.completed");
    return ended.matchedCount === 0 ? undefined : [{ event: "secrets.imported", data, result: undefined }];
  });
}

// ---------------------------------------------------------------------------------------------------------------------

function imports(store: Store) {
  return store.db.collection<ImportDoc>("kek_imports");
}
