import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { KEY_BYTES } from "../../envelope/gcm.ts";
import { CKA, CKK_AES, CKO_SECRET_KEY } from "./constants.ts";
import type { Cryptoki, Handle, Template } from "./cryptoki.ts";

/** The KEK as an object in the token: its name, what it must be made as, and what it must be found as. */

export function keyLabel(version: number): string {
  return `certautopilot-kek-v${version}`;
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

/** docs/format.md, "Keys in a token": born in the token, usable there for encryption only, and nothing can be changed about it. */
export function keyTemplate(label: string, id: Buffer, inToken: boolean): Template {
  return [
    { type: CKA.class, value: CKO_SECRET_KEY },
    { type: CKA.keyType, value: CKK_AES },
    { type: CKA.valueLen, value: KEY_BYTES },
    { type: CKA.label, value: label },
    { type: CKA.id, value: id },
    { type: CKA.token, value: inToken },
    { type: CKA.private, value: true },
    { type: CKA.sensitive, value: true },
    { type: CKA.extractable, value: false },
    { type: CKA.modifiable, value: false },
    { type: CKA.encrypt, value: true },
    { type: CKA.decrypt, value: true },
    { type: CKA.wrap, value: false },
    { type: CKA.unwrap, value: false },
    // Tokens differ in what they take for granted here: a KEK does nothing else.
    { type: CKA.sign, value: false },
    { type: CKA.verify, value: false },
  ];
}

/** What finds a KEK: by label, among secret keys. */
export function searchTemplate(label: string): Template {
  return [
    { type: CKA.class, value: CKO_SECRET_KEY },
    { type: CKA.token, value: true },
    { type: CKA.label, value: Buffer.from(label) },
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

export function readKey(module: Cryptoki, session: Handle, key: Handle): KeyFacts {
  const types = [
    CKA.label,
    CKA.id,
    CKA.keyType,
    CKA.valueLen,
    CKA.sensitive,
    CKA.extractable,
    CKA.modifiable,
    CKA.local,
    CKA.neverExtractable,
    CKA.alwaysSensitive,
  ];
  const [label, id, keyType, bytes, ...flags] = module.attributes(session, key, types);
  const [sensitive, extractable, modifiable, local, neverExtractable, alwaysSensitive] = flags.map(flagOf);
  const type = numberOf(keyType);
  return {
    label: label?.toString("utf8") ?? "",
    id: (id ?? Buffer.alloc(0)).toString("hex"),
    isAes: type === undefined ? undefined : type === CKK_AES,
    bytes: numberOf(bytes),
    sensitive,
    extractable,
    modifiable,
    local,
    neverExtractable,
    alwaysSensitive,
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
export function attributeMismatches(facts: KeyFacts): string[] {
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

/** A CK_BBOOL. */
function flagOf(value: Buffer | undefined): boolean | undefined {
  return value === undefined || value.length === 0 ? undefined : value[0] !== 0;
}

/** A CK_ULONG, as wide as the platform has it. */
function numberOf(value: Buffer | undefined): number | undefined {
  if (value === undefined || value.length < 4) return undefined;
  return value.readUInt32LE(0);
}
