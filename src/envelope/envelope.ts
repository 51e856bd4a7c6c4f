import { Binary, Int32 } from "bson";
import type { ProviderName } from "../config/config.ts";
import { IV_BYTES, TAG_BYTES, WRAP_BYTES } from "./gcm.ts";
import { damagedEnvelope, plaintextFound } from "./not_envelope.ts";

/** Envelope format 1, the encrypted form of one field (docs/format.md). Reading is strict: a typed error, no guess. */

export const FORMAT = 1;
export const MAX_PLAINTEXT_BYTES = 8 * 1024 * 1024;
export const MAX_VERSION = 2_147_483_647;

/** An envelope that has been read: every length and type is right. */
export interface Envelope {
  provider: ProviderName;
  version: number;
  wrappedDek: Uint8Array;
  nonce: Uint8Array;
  ciphertext: Uint8Array;
}

/** An envelope as it is stored. */
export interface StoredEnvelope {
  format: number | Int32;
  provider: ProviderName;
  kek_version: number | Int32;
  wrapped_dek: Binary;
  nonce: Binary;
  ciphertext: Binary;
}

const KEYS = ["format", "provider", "kek_version", "wrapped_dek", "nonce", "ciphertext"];

/** The stored form: what every driver stores as int32 and BinData of subtype 0. */
export function toStored(envelope: Envelope): StoredEnvelope {
  return {
    format: new NeutralInt32(FORMAT),
    provider: envelope.provider,
    kek_version: new NeutralInt32(envelope.version),
    wrapped_dek: new NeutralBinary(envelope.wrappedDek, 0),
    nonce: new NeutralBinary(envelope.nonce, 0),
    ciphertext: new NeutralBinary(envelope.ciphertext, 0),
  };
}

/**
 * Reads a stored envelope, from a document decoded with or without promoted values.
 * @param provider the install's provider: an envelope of another is foreign.
 * @throws KekError `envelope_invalid`, saying what is wrong; the envelope's bytes are never in the message.
 */
export function readEnvelope(stored: unknown, provider: ProviderName): Envelope {
  const notDocument = "it is not a subdocument";
  if (stored === null || stored === undefined || Array.isArray(stored)) throw damagedEnvelope(notDocument);
  if (isPlainValue(stored)) throw plaintextFound(notDocument);
  const fields = stored as Record<string, unknown>;
  if (!KEYS.some((key) => key in fields)) throw plaintextFound("it has no member of an envelope");
  for (const key of Object.keys(fields))
    if (!KEYS.includes(key)) throw damagedEnvelope(`it has an unknown key ${JSON.stringify(key)}`);
  for (const key of KEYS) if (!(key in fields)) throw damagedEnvelope(`it has no ${key}`);
  if (int32(fields["format"]) !== FORMAT) throw damagedEnvelope("its format is not 1");
  if (fields["provider"] !== provider)
    throw damagedEnvelope(`its provider is not "${provider}", the provider of this install`);
  const version = int32(fields["kek_version"]);
  if (version === undefined || version < 1) throw damagedEnvelope("its kek_version is not an int32 of at least 1");
  const wrappedDek = bytes(fields["wrapped_dek"], "wrapped_dek");
  const nonce = bytes(fields["nonce"], "nonce");
  const ciphertext = bytes(fields["ciphertext"], "ciphertext");
  if (wrappedDek.length !== WRAP_BYTES)
    throw damagedEnvelope(`its wrapped_dek has ${wrappedDek.length} bytes, not ${WRAP_BYTES}`);
  if (nonce.length !== IV_BYTES) throw damagedEnvelope(`its nonce has ${nonce.length} bytes, not ${IV_BYTES}`);
  if (ciphertext.length < TAG_BYTES) throw damagedEnvelope("its ciphertext is shorter than a tag");
  if (ciphertext.length > MAX_PLAINTEXT_BYTES + TAG_BYTES) throw damagedEnvelope("its ciphertext is longer than 8 MiB");
  return { provider, version, wrappedDek, nonce, ciphertext };
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * A driver of another major version refuses BSON types that are not of its own bson package. Each one asks for `toBSON` first,
 * and stores plain bytes and whole numbers as these types.
 */
class NeutralBinary extends Binary {
  toBSON(): Uint8Array {
    return this.buffer.subarray(0, this.position);
  }
}

class NeutralInt32 extends Int32 {
  toBSON(): number {
    return this.value;
  }
}

/** What a driver decodes from anything but a subdocument: text, bytes, a number, a date. */
function isPlainValue(stored: NonNullable<unknown>): boolean {
  return typeof stored !== "object" || stored instanceof Uint8Array || stored instanceof Date || "_bsontype" in stored;
}

function int32(value: unknown): number | undefined {
  const number = isInt32(value) ? value.value : value;
  return typeof number === "number" && Number.isInteger(number) && number <= MAX_VERSION ? number : undefined;
}

/** BinData of subtype 0, or bytes as a driver that promotes buffers gives them. */
function bytes(value: unknown, name: string): Uint8Array {
  if (value instanceof Uint8Array) return value;
  // A view for each value costs as much as a good part of opening it, and a driver makes none with room to spare.
  if (isBinary(value) && value.sub_type === 0)
    return value.position === value.buffer.length ? value.buffer : value.buffer.subarray(0, value.position);
  throw damagedEnvelope(`its ${name} is not BinData of subtype 0`);
}

/** By tag, not by class: the application may bring a bson package of its own. A stored subdocument may hold a tag too. */
function isBinary(value: unknown): value is Binary {
  if (typeof value !== "object" || value === null) return false;
  const { _bsontype, buffer, position } = value as Partial<Binary>;
  return _bsontype === "Binary" && buffer instanceof Uint8Array && typeof position === "number";
}

function isInt32(value: unknown): value is Int32 {
  return typeof value === "object" && value !== null && (value as { _bsontype?: unknown })._bsontype === "Int32";
}
