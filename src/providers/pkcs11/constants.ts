/** Numbers of PKCS#11 v2.40 that more than one file here speaks of, by their names in the specification. */

export const CKF = {
  encrypt: 0x100,
  decrypt: 0x200,
  tokenInitialized: 0x400,
  userPinCountLow: 0x10000,
  userPinFinalTry: 0x20000,
  userPinLocked: 0x40000,
} as const;

export const CKM_AES_KEY_GEN = 0x1080;
export const CKM_AES_GCM = 0x1087;

export const CKO_SECRET_KEY = 0x4;
export const CKK_AES = 0x1f;

export const CKA = {
  class: 0x0,
  token: 0x1,
  private: 0x2,
  label: 0x3,
  keyType: 0x100,
  id: 0x102,
  sensitive: 0x103,
  encrypt: 0x104,
  decrypt: 0x105,
  wrap: 0x106,
  unwrap: 0x107,
  sign: 0x108,
  verify: 0x10a,
  valueLen: 0x161,
  extractable: 0x162,
  local: 0x163,
  neverExtractable: 0x164,
  alwaysSensitive: 0x165,
  modifiable: 0x170,
} as const;
