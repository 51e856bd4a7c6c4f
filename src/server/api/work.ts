import type { StoredEnvelope } from "../../envelope/envelope.ts";
import { messageOf } from "../../errors/errors.ts";
import type { Log } from "../../errors/log.ts";
import type { FieldEncryption } from "../../fleet/fleet_encryption.ts";
import { explainMongo } from "../../store/mongodb_errors.ts";
import { mapConcurrently } from "../../util/map_concurrently.ts";
import { canonicalBinary } from "./extended_json.ts";
import { type ApiOperation, type Problem, problemOf } from "./problem.ts";
import type { DecryptItem, EncryptItem } from "./schemas.ts";

/** What is asked for, done by this process's member of the fleet: one value, or many in their order. */

/** Enough to keep the sessions of a token busy. */
const ITEMS_AT_ONCE = 64;

export interface Failed {
  error: Problem;
}
export type Outcome<T> = T | Failed;

export interface Keys {
  encryption: Pick<FieldEncryption, "encrypt" | "decrypt">;
  /** Of MongoDB, for messages about it; its user and password are never shown. */
  uri: string;
  log: Log;
}

export async function encryptOne({ encryption, uri, log }: Keys, item: EncryptItem) {
  const { plaintext, ...place } = item;
  return await outcome("encrypt", uri, log, async () => {
    try {
      return { envelope: canonical(await encryption.encrypt(plaintext, place)) };
    } finally {
      plaintext.fill(0);
    }
  });
}

export async function decryptOne({ encryption, uri, log }: Keys, item: DecryptItem) {
  const { envelope, ...place } = item;
  return await outcome("decrypt", uri, log, async () => {
    const opened = await encryption.decrypt(envelope, place);
    const plaintext = opened.toString("base64");
    opened.fill(0);
    return { plaintext };
  });
}

/** Each item by itself: one that fails has its problem in its place, and the others are done. */
export async function each<I, T>(items: readonly I[], work: (item: I) => Promise<T>): Promise<T[]> {
  return await mapConcurrently(items, ITEMS_AT_ONCE, work);
}

// ---------------------------------------------------------------------------------------------------------------------

async function outcome<T>(operation: ApiOperation, uri: string, log: Log, work: () => Promise<T>): Promise<Outcome<T>> {
  try {
    return await work();
  } catch (thrown) {
    const known = explainMongo(thrown, uri);
    if (known === undefined) log.warn(`API, ${operation}: unexpected error: ${messageOf(thrown)}`);
    return { error: problemOf(known ?? thrown, operation) };
  }
}

function canonical({ provider, format, kek_version, wrapped_dek, nonce, ciphertext }: StoredEnvelope) {
  return {
    format: { $numberInt: String(format) },
    provider,
    kek_version: { $numberInt: String(kek_version) },
    wrapped_dek: canonicalBinary(wrapped_dek),
    nonce: canonicalBinary(nonce),
    ciphertext: canonicalBinary(ciphertext),
  };
}
