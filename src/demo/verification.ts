import { createHash } from "node:crypto";
import type { FieldEncryption } from "../fleet/fleet_encryption.ts";
import type { Store } from "../store/store.ts";
import { KINDS } from "./secret_kinds.ts";
import { type Ledger, revisionKey } from "./traffic.ts";

/** What the demo shows at its end, from the records themselves. */

interface StoredField {
  nonce: { buffer: Uint8Array };
  ciphertext: { buffer: Uint8Array };
}

/** Record and revision → digest of nonce and ciphertext. */
export async function ciphertexts(store: Store): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const kind of KINDS) {
    for await (const record of store.db.collection(kind.collection).find({ [kind.path]: { $exists: true } })) {
      const field = record[kind.path] as StoredField;
      const digest = createHash("sha256").update(field.nonce.buffer).update(field.ciphertext.buffer).digest("base64");
      found.set(`${kind.collection}:${kind.path}:${record._id}:${record[revisionKey(kind)]}`, digest);
    }
  }
  return found;
}

export interface Opened {
  opened: number;
  wrong: string[];
}

/** Opens every record and compares it with the ledger: its newest acknowledged revision, or a later one. */
export async function openEverything(encryption: FieldEncryption, store: Store, ledger: Ledger): Promise<Opened> {
  const result: Opened = { opened: 0, wrong: [] };
  for (const kind of KINDS) {
    for await (const record of store.db
      .collection<{ _id: number; [key: string]: unknown }>(kind.collection)
      .find({ [kind.path]: { $exists: true } })) {
      const id = record._id;
      const revision = Number(record[revisionKey(kind)]);
      const place = { collection: kind.collection, id, field: kind.path };
      const plaintext = await encryption.decrypt(record[kind.path], place).catch(() => undefined);
      const newest = ledger.newest(kind, id);
      if (
        plaintext !== undefined &&
        newest !== undefined &&
        revision >= newest &&
        ledger.matches(kind, id, revision, plaintext)
      )
        result.opened += 1;
      else result.wrong.push(`${kind.collection}:${kind.path} ${id}`);
    }
  }
  return result;
}
