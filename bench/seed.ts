import { randomBytes } from "node:crypto";
import { Binary, Int32 } from "mongodb";
import { dekAadOf, placeOf } from "../src/envelope/aad.ts";
import { newDek } from "../src/envelope/field_cipher.ts";
import { wrapWithKey } from "../src/envelope/gcm.ts";
import { FIELD, KEKS, type Stage, serve, settled, variablesOf } from "./stage.ts";

/** What a document has besides its ciphertext, in bytes. */
const BESIDES = 168;
const BATCH = 2000;

/**
 * An install at KEK version 1 with so many documents.
 * @param bytes of a whole document.
 */
export async function seed(stage: Stage, database: string, records: number, bytes = 2048): Promise<void> {
  await (await serve(variablesOf(stage, database, 1))).stop();
  const db = stage.client.db(database);
  const install = await db.collection("kek_install").findOne({});
  const aad = dekAadOf(install?.["install_id"], "env", 1, FIELD.collection, FIELD.path);
  // A rotation opens the wraps only, so the payload may be any bytes.
  const payload = randomBytes(bytes - BESIDES + BATCH);
  for (let start = 0; start < records; start += BATCH) {
    const documents = Array.from({ length: Math.min(BATCH, records - start) }, (_, index) => {
      const id = start + index;
      const wrapped = wrapWithKey(KEKS[1], newDek(), aad(placeOf(FIELD.collection, id, FIELD.path).idBson));
      return {
        _id: id as never,
        [FIELD.path]: {
          format: new Int32(1),
          provider: "env",
          kek_version: new Int32(1),
          wrapped_dek: new Binary(wrapped, 0),
          nonce: new Binary(randomBytes(12), 0),
          ciphertext: new Binary(payload.subarray(index, index + bytes - BESIDES), 0),
        },
      };
    });
    await db.collection(FIELD.collection).insertMany(documents, { ordered: false });
  }
  await settled(stage);
}
