import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { KEY_BYTES } from "../../envelope/gcm.ts";
import * as ck from "./cryptoki.ts";

/** The KEK as an object in the token: its name, what it must be made as, and what it must be found as. */

export function keyLabel(version: number): string {
  return `certautopilot-kek-v${version}`;
}

/** @returns undefined for a label that is not a KEK's. */
export function versionOfLabel(label: string): number | undefined {
  const digits = /^certautopilot-kek-v([1-9]\d{0,9})$/.exec(label)?.[1];
  const version = Number(digits);
  return digits !== undefined && version <= 2_147_483_647 ? version : undefined;
}

const ID_BYTES = 16;
const OWN_BYTES = 8;

/**
 * CKA_ID of a new key: half says whose it is, half is random. Two installs may share a token, and then a label alone does
 * not tell their keys apart.
 */
export function newKeyId(installId: string, version: number): Buffer {
  return Buffer.concat([ownership(installId, version), randomBytes(ID_BYTES - OWN_BYTES)]);
}

/** @param id in hex */
export function isOwnKeyId(id: string, installId: string, version: number): boolean {
  return id.length === ID_BYTES * 2 && id.startsWith(ownership(installId, version).toString("hex"));
}

/** DESIGN.md section 9: born in the token, usable there for encryption only, and nothing can be changed about it. */
export function keyTemplate(label: string, id: Buffer, inToken: boolean): ck.Template {
  return [
    { type: ck.CKA_CLASS, value: ck.CKO_SECRET_KEY },
    { type: ck.CKA_KEY_TYPE, value: ck.CKK_AES },
    { type: ck.CKA_VALUE_LEN, value: KEY_BYTES },
    { type: ck.CKA_LABEL, value: label },
    { type: ck.CKA_ID, value: id },
    { type: ck.CKA_TOKEN, value: inToken },
    { type: ck.CKA_PRIVATE, value: true },
    { type: ck.CKA_SENSITIVE, value: true },
    { type: ck.CKA_EXTRACTABLE, value: false },
    { type: ck.CKA_MODIFIABLE, value: false },
    { type: ck.CKA_ENCRYPT, value: true },
    { type: ck.CKA_DECRYPT, value: true },
    { type: ck.CKA_WRAP, value: false },
    { type: ck.CKA_UNWRAP, value: false },
    // Tokens differ in what they take for granted here: a KEK does nothing else.
    { type: ck.CKA_SIGN, value: false },
    { type: ck.CKA_VERIFY, value: false },
  ];
}

/** What finds a KEK: by label, among secret keys. */
export function searchTemplate(label?: string): ck.Template {
  return [
    { type: ck.CKA_CLASS, value: ck.CKO_SECRET_KEY },
    { type: ck.CKA_TOKEN, value: true },
    ...(label === undefined
      ? [{ type: ck.CKA_KEY_TYPE, value: ck.CKK_AES }]
      : [{ type: ck.CKA_LABEL, value: Buffer.from(label) }]),
  ];
}

/** What the token says of a key. `undefined` where it does not say. */
export interface KeyFacts {
  label: string;
  /** CKA_ID in hex */
  id: string;
  isAes: boolean | undefined;
  bytes: number | undefined;
  sensitive: boolean | undefined;
  extractable: boolean | undefined;
  modifiable: boolean | undefined;
  local: boolean | undefined;
  neverExtractable: boolean | undefined;
  alwaysSensitive: boolean | undefined;
}

export function readKey(module: ck.Cryptoki, session: ck.Handle, key: ck.Handle): KeyFacts {
  const read = (type: number) => module.attribute(session, key, type);
  const flag = (type: number) => {
    const value = read(type);
    return value === undefined || value.length === 0 ? undefined : value[0] !== 0;
  };
  const type = numberOf(read(ck.CKA_KEY_TYPE));
  return {
    label: read(ck.CKA_LABEL)?.toString("utf8") ?? "",
    id: (read(ck.CKA_ID) ?? Buffer.alloc(0)).toString("hex"),
    isAes: type === undefined ? undefined : type === ck.CKK_AES,
    bytes: numberOf(read(ck.CKA_VALUE_LEN)),
    sensitive: flag(ck.CKA_SENSITIVE),
    extractable: flag(ck.CKA_EXTRACTABLE),
    modifiable: flag(ck.CKA_MODIFIABLE),
    local: flag(ck.CKA_LOCAL),
    neverExtractable: flag(ck.CKA_NEVER_EXTRACTABLE),
    alwaysSensitive: flag(ck.CKA_ALWAYS_SENSITIVE),
  };
}

/** Why a key may not be used at all: it is no AES-256 key, or its value could leave the token. */
export function unusable(facts: KeyFacts): string | undefined {
  if (facts.isAes === false) return "is not an AES key";
  if (facts.bytes !== undefined && facts.bytes !== KEY_BYTES) return `has ${facts.bytes} bytes, not ${KEY_BYTES}`;
  if (facts.sensitive === false) return "is not CKA_SENSITIVE: its value can be read";
  if (facts.extractable === true) return "is CKA_EXTRACTABLE: its value can be wrapped out";
  return undefined;
}

/** Why a key that was just made is not what was asked for: a token must say each of these of it. */
export function notAsMade(facts: KeyFacts): string[] {
  const wrong: string[] = [];
  const must = (name: string, value: boolean | undefined, wanted: boolean) => {
    if (value !== wanted) wrong.push(`${name} is ${value === undefined ? "not shown" : value}`);
  };
  must("CKA_LOCAL", facts.local, true);
  must("CKA_NEVER_EXTRACTABLE", facts.neverExtractable, true);
  must("CKA_ALWAYS_SENSITIVE", facts.alwaysSensitive, true);
  must("CKA_SENSITIVE", facts.sensitive, true);
  must("CKA_EXTRACTABLE", facts.extractable, false);
  return wrong;
}

// ---------------------------------------------------------------------------------------------------------------------

function ownership(installId: string, version: number): Buffer {
  const text = `certautopilot/key/1\0${installId}\0${version}`;
  return createHash("sha256").update(text).digest().subarray(0, OWN_BYTES);
}

/** A CK_ULONG, as wide as the platform has it. */
function numberOf(value: Buffer | undefined): number | undefined {
  if (value === undefined || value.length < 4) return undefined;
  return value.readUInt32LE(0);
}
