import { randomUUID } from "node:crypto";
import type { ProviderName } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import type { InstallDoc } from "../protocol/documents.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { installOf } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";
import { type Store, serverNow } from "./store.ts";

/** `kek_install`: the lock, inserted once, never updated. */

export async function readInstall(store: Store): Promise<InstallDoc | undefined> {
  const doc = await installs(store).findOne({ _id: "kek_install" });
  return doc === null ? undefined : installOf(doc);
}

/** Locks a fresh database; on a locked one it returns the lock that is there. The caller compares providers. */
export async function lockInstall(
  store: Store,
  auditor: Auditor,
  provider: ProviderName,
  lockedBy: InstallDoc["locked_by"],
): Promise<InstallDoc> {
  const found = await readInstall(store);
  if (found !== undefined) return found;
  const installId = randomUUID();
  try {
    await audited(store, auditor, async (session) => {
      const doc: InstallDoc = {
        _id: "kek_install",
        provider,
        install_id: installId,
        locked_at: await serverNow(store, session),
        locked_by: lockedBy,
      };
      await installs(store).insertOne(doc, { session });
      if (import.meta.crashPoints) crashPoint("lock.inserted");
      const data = { provider, install_id: installId, locked_by: lockedBy };
      return [{ event: "install.locked", data, result: undefined }];
    });
  } catch (thrown) {
    if (!isDuplicateKey(thrown)) throw thrown;
  }
  if (import.meta.crashPoints) crashPoint("lock.written");
  const lock = await readInstall(store);
  if (lock === undefined) throw new Error("kek_install vanished while it was being written");
  return lock;
}

// ---------------------------------------------------------------------------------------------------------------------

function installs(store: Store) {
  return store.db.collection<InstallDoc>("kek_install");
}
