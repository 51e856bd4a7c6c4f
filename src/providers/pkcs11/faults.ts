/** What a PKCS#11 module answered when it did not say CKR_OK, and what that means for the one who asked. Pure. */

/** PKCS#11 v2.40, section 5.1 (return values), in the groups that call for the same next step. */
const CODES = {
  /** The session, the login or a handle is gone: open again, log in, find the keys again. */
  lost: {
    CKR_OBJECT_HANDLE_INVALID: 0x82,
    CKR_KEY_HANDLE_INVALID: 0x60,
    CKR_OPERATION_ACTIVE: 0x90,
    CKR_OPERATION_NOT_INITIALIZED: 0x91,
    CKR_SESSION_CLOSED: 0xb0,
    CKR_SESSION_HANDLE_INVALID: 0xb3,
    CKR_USER_NOT_LOGGED_IN: 0x101,
  },
  /** The login was refused. Never asked twice: a few wrong ones lock the token. */
  pin: {
    CKR_PIN_INCORRECT: 0xa0,
    CKR_PIN_INVALID: 0xa1,
    CKR_PIN_LEN_RANGE: 0xa2,
    CKR_PIN_EXPIRED: 0xa3,
    CKR_PIN_LOCKED: 0xa4,
  },
  /** The token can't, or may not, do this at all. */
  unfit: {
    CKR_ARGUMENTS_BAD: 0x7,
    CKR_ATTRIBUTE_READ_ONLY: 0x10,
    CKR_ATTRIBUTE_TYPE_INVALID: 0x12,
    CKR_ATTRIBUTE_VALUE_INVALID: 0x13,
    CKR_ACTION_PROHIBITED: 0x1b,
    CKR_KEY_SIZE_RANGE: 0x62,
    CKR_KEY_TYPE_INCONSISTENT: 0x63,
    CKR_KEY_FUNCTION_NOT_PERMITTED: 0x68,
    CKR_MECHANISM_INVALID: 0x70,
    CKR_MECHANISM_PARAM_INVALID: 0x71,
    CKR_FUNCTION_NOT_SUPPORTED: 0x54,
    CKR_TEMPLATE_INCOMPLETE: 0xd0,
    CKR_TEMPLATE_INCONSISTENT: 0xd1,
    CKR_TOKEN_WRITE_PROTECTED: 0xe2,
    CKR_SESSION_READ_ONLY: 0xb5,
    CKR_USER_TYPE_INVALID: 0x103,
  },
  /** No session is to be had just now. */
  crowded: {
    CKR_SESSION_COUNT: 0xb1,
  },
  /** These bytes are not what this key made: other key, other AAD, or changed. */
  data: {
    CKR_DATA_INVALID: 0x20,
    CKR_DATA_LEN_RANGE: 0x21,
    CKR_ENCRYPTED_DATA_INVALID: 0x40,
    CKR_ENCRYPTED_DATA_LEN_RANGE: 0x41,
    CKR_AEAD_DECRYPT_FAILED: 0x42,
    CKR_SIGNATURE_INVALID: 0xc0,
  },
  /** The token, its reader, its network or its daemon: look again later. Codes that are not listed belong here too. */
  away: {
    CKR_HOST_MEMORY: 0x2,
    CKR_SLOT_ID_INVALID: 0x3,
    CKR_GENERAL_ERROR: 0x5,
    CKR_FUNCTION_FAILED: 0x6,
    CKR_DEVICE_ERROR: 0x30,
    CKR_DEVICE_MEMORY: 0x31,
    CKR_DEVICE_REMOVED: 0x32,
    CKR_FUNCTION_CANCELED: 0x50,
    /** SoftHSM says so while another process logs in. */
    CKR_USER_PIN_NOT_INITIALIZED: 0x102,
    CKR_TOKEN_NOT_PRESENT: 0xe0,
    CKR_TOKEN_NOT_RECOGNIZED: 0xe1,
    CKR_CRYPTOKI_NOT_INITIALIZED: 0x190,
  },
} as const;

export type FaultKind = keyof typeof CODES;

export class TokenFault extends Error {
  override readonly name = "TokenFault";
  /** CK_RV; 0 when the failure was not the module's answer (it could not be loaded). */
  readonly code: number;
  readonly call: string;

  constructor(code: number, call: string, detail?: string) {
    super(detail === undefined ? `${call}: ${nameOf(code)}` : `${call}: ${detail}`);
    this.code = code;
    this.call = call;
  }

  get kind(): FaultKind {
    return kindOf(this.code);
  }

  /** The module says that there is no token where one was asked for. */
  get noToken(): boolean {
    return NO_TOKEN.includes(this.code);
  }

  /** Nobody looked at what was asked: there is no token, or no module at work. */
  get unseen(): boolean {
    return this.noToken || this.code === CODES.away.CKR_CRYPTOKI_NOT_INITIALIZED;
  }

  /** From what pkcs11js throws: `CKR_NAME:number` in the message, sometimes as a property `code`. */
  static from(thrown: unknown, call: string): TokenFault {
    if (thrown instanceof TokenFault) return thrown;
    const { message = "", stack = "", code } = thrown as { message?: string; stack?: string; code?: unknown };
    if (typeof code === "number" && code > 0) return new TokenFault(code, call);
    const found = /CKR_\w+:(\d+)/.exec(`${message}\n${stack}`)?.[1];
    if (found !== undefined) return new TokenFault(Number(found), call);
    // Not an answer of the module: the loader's words name files, never secrets.
    return new TokenFault(0, call, message.split("\n")[0] ?? "failed");
  }
}

export function kindOf(code: number): FaultKind {
  return BY_CODE.get(code)?.kind ?? "away";
}

// ---------------------------------------------------------------------------------------------------------------------

const NO_TOKEN: number[] = [
  CODES.away.CKR_SLOT_ID_INVALID,
  CODES.away.CKR_DEVICE_REMOVED,
  CODES.away.CKR_TOKEN_NOT_PRESENT,
  CODES.away.CKR_TOKEN_NOT_RECOGNIZED,
];

const BY_CODE = new Map(
  Object.entries(CODES).flatMap(([kind, codes]) =>
    Object.entries(codes).map(([name, code]) => [code as number, { kind: kind as FaultKind, name }] as const),
  ),
);

function nameOf(code: number): string {
  return BY_CODE.get(code)?.name ?? `0x${code.toString(16)}`;
}
