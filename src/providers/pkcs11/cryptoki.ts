import { Buffer } from "node:buffer";
import pkcs11js from "pkcs11js";
import { TAG_BYTES } from "../../envelope/gcm.ts";
import { TokenFault } from "./faults.ts";

/**
 * The PKCS#11 v2.40 calls that are needed, blocking, with typed results. The only importer of pkcs11js (by its default
 * export: Deno knows no other). Every failure is a `TokenFault` with the module's return code.
 */

export type Handle = Buffer;

export interface Token {
  slot: Handle;
  label: string;
  serial: string;
  manufacturer: string;
  model: string;
  /** CK_TOKEN_INFO.flags */
  flags: number;
  /** How many sessions one application may open; undefined when the token does not say, or knows no limit. */
  maxSessions: number | undefined;
}

export interface MechanismFacts {
  minKeyBytes: number;
  maxKeyBytes: number;
  flags: number;
}

export interface GcmResult {
  /** ciphertext ‖ tag */
  sealed: Buffer;
  /** The IV that was used: the one given, or the one that the token wrote in its place. */
  iv: Buffer;
}

export const CKF = {
  loginRequired: 0x4,
  userPinInitialized: 0x8,
  protectedAuthenticationPath: 0x100,
  tokenInitialized: 0x400,
  userPinCountLow: 0x10000,
  userPinFinalTry: 0x20000,
  userPinLocked: 0x40000,
  encrypt: 0x100,
  decrypt: 0x200,
  generate: 0x8000,
} as const;

export const { CKM_AES_GCM, CKM_AES_KEY_GEN } = pkcs11js;
export const {
  CKA_ALWAYS_SENSITIVE,
  CKA_CLASS,
  CKA_DECRYPT,
  CKA_ENCRYPT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LABEL,
  CKA_LOCAL,
  CKA_MODIFIABLE,
  CKA_NEVER_EXTRACTABLE,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_TOKEN,
  CKA_UNWRAP,
  CKA_VALUE_LEN,
  CKA_WRAP,
  CKK_AES,
  CKO_SECRET_KEY,
} = pkcs11js;

export type Template = { type: number; value: number | boolean | string | Buffer }[];

const CKS_RO_USER_FUNCTIONS = 1;
const CKS_RW_USER_FUNCTIONS = 3;
/** CK_UNAVAILABLE_INFORMATION as a 32-bit number; zero is CK_EFFECTIVELY_INFINITE. */
const UNKNOWN_COUNT = 0xffff_ffff;
const CKR_ATTRIBUTE_SENSITIVE = 0x11;
const CKR_ATTRIBUTE_TYPE_INVALID = 0x12;
const CKR_MECHANISM_INVALID = 0x70;
const CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191;
const CKR_USER_ALREADY_LOGGED_IN = 0x100;
/** Some tokens want more room than they fill. */
const ROOM = 64;

export class Cryptoki {
  readonly #module: InstanceType<typeof pkcs11js.PKCS11>;
  /** Where the token writes to; one thread makes one call at a time. */
  readonly #room = Buffer.alloc(ROOM);

  /** Loads the module into this thread. @throws TokenFault with code 0 and the loader's message. */
  constructor(modulePath: string) {
    this.#module = new pkcs11js.PKCS11();
    call("dlopen", () => this.#module.load(modulePath));
  }

  /** @returns whether it was this call that initialized the module; another part of the process may have been first. */
  initialize(): boolean {
    try {
      call("C_Initialize", () => this.#module.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK }));
      return true;
    } catch (thrown) {
      if (thrown instanceof TokenFault && thrown.code === CKR_CRYPTOKI_ALREADY_INITIALIZED) return false;
      throw thrown;
    }
  }

  finalize(): void {
    call("C_Finalize", () => this.#module.C_Finalize());
  }

  /** Tokens that are in a slot now. One that goes away while it is looked at is left out. */
  tokens(): Token[] {
    return call("C_GetSlotList", () => this.#module.C_GetSlotList(true)).map((slot) => {
      const info = call("C_GetTokenInfo", () => this.#module.C_GetTokenInfo(slot));
      const { maxSessionCount } = info;
      return {
        slot,
        label: trimmed(info.label),
        serial: trimmed(info.serialNumber),
        manufacturer: trimmed(info.manufacturerID),
        model: trimmed(info.model),
        flags: info.flags,
        maxSessions: maxSessionCount === 0 || maxSessionCount === UNKNOWN_COUNT ? undefined : maxSessionCount,
      };
    });
  }

  /** @returns undefined when the token has no such mechanism. */
  mechanism(slot: Handle, type: number): MechanismFacts | undefined {
    try {
      const info = call("C_GetMechanismInfo", () => this.#module.C_GetMechanismInfo(slot, type));
      return { minKeyBytes: info.minKeySize, maxKeyBytes: info.maxKeySize, flags: info.flags };
    } catch (thrown) {
      if (thrown instanceof TokenFault && thrown.code === CKR_MECHANISM_INVALID) return undefined;
      throw thrown;
    }
  }

  openSession(slot: Handle, writable: boolean): Handle {
    const flags = pkcs11js.CKF_SERIAL_SESSION | (writable ? pkcs11js.CKF_RW_SESSION : 0);
    return call("C_OpenSession", () => this.#module.C_OpenSession(slot, flags));
  }

  /** A session that is lost already cannot be closed, and need not be: what the module says of it is let pass. */
  closeSession(session: Handle): void {
    try {
      call("C_CloseSession", () => this.#module.C_CloseSession(session));
    } catch (thrown) {
      if (!(thrown instanceof TokenFault)) throw thrown;
    }
  }

  /** Login counts for every session of the process at once. */
  isLoggedIn(session: Handle): boolean {
    const { state } = call("C_GetSessionInfo", () => this.#module.C_GetSessionInfo(session));
    return state === CKS_RO_USER_FUNCTIONS || state === CKS_RW_USER_FUNCTIONS;
  }

  login(session: Handle, pin: string): void {
    try {
      call("C_Login", () => this.#module.C_Login(session, pkcs11js.CKU_USER, pin));
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || thrown.code !== CKR_USER_ALREADY_LOGGED_IN) throw thrown;
    }
  }

  find(session: Handle, template: Template): Handle[] {
    call("C_FindObjectsInit", () => this.#module.C_FindObjectsInit(session, template));
    const found: Handle[] = [];
    try {
      for (;;) {
        const some = call("C_FindObjects", () => this.#module.C_FindObjects(session, 64));
        if (some.length === 0) return found;
        found.push(...some);
      }
    } finally {
      call("C_FindObjectsFinal", () => this.#module.C_FindObjectsFinal(session));
    }
  }

  /** @returns undefined when the token does not know the attribute, or does not show it. */
  attribute(session: Handle, object: Handle, type: number): Buffer | undefined {
    try {
      const [read] = call("C_GetAttributeValue", () =>
        this.#module.C_GetAttributeValue(session, object, [{ type }] as never),
      );
      return read?.value as Buffer | undefined;
    } catch (thrown) {
      if (
        thrown instanceof TokenFault &&
        (thrown.code === CKR_ATTRIBUTE_SENSITIVE || thrown.code === CKR_ATTRIBUTE_TYPE_INVALID)
      ) {
        return undefined;
      }
      throw thrown;
    }
  }

  generateAesKey(session: Handle, template: Template): Handle {
    const how = { mechanism: CKM_AES_KEY_GEN, parameter: null };
    return call("C_GenerateKey", () => this.#module.C_GenerateKey(session, how as never, template));
  }

  destroy(session: Handle, object: Handle): void {
    call("C_DestroyObject", () => this.#module.C_DestroyObject(session, object));
  }

  /** @param iv of 12 bytes; a token that makes its own writes it there. */
  encrypt(session: Handle, key: Handle, iv: Buffer, aad: Buffer, plain: Buffer): GcmResult {
    const how = gcm(iv, aad);
    call("C_EncryptInit", () => this.#module.C_EncryptInit(session, how, key));
    const sealed = call("C_Encrypt", () => this.#module.C_Encrypt(session, plain, this.#room));
    // `how` is used after the call, so that the memory the token was given is alive until then.
    return { sealed: Buffer.from(sealed), iv: how.parameter.iv };
  }

  /** @returns the plaintext, in memory that the caller zeroes. */
  decrypt(session: Handle, key: Handle, iv: Buffer, aad: Buffer, sealed: Buffer): Buffer {
    const how = gcm(iv, aad);
    call("C_DecryptInit", () => this.#module.C_DecryptInit(session, how, key));
    try {
      const plain = call("C_Decrypt", () => this.#module.C_Decrypt(session, sealed, this.#room));
      return how.parameter.aad.length > 0 ? Buffer.from(plain) : plain;
    } finally {
      // Also when the tag was wrong: some tokens leave what they had decrypted by then.
      this.#room.fill(0);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** CK_GCM_PARAMS as v2.40 errata 1 has it, with ulIvBits. */
function gcm(iv: Buffer, aad: Buffer) {
  const parameter = {
    type: pkcs11js.CK_PARAMS_AES_GCM_v240,
    iv,
    ivBits: iv.length * 8,
    aad,
    tagBits: TAG_BYTES * 8,
  };
  return { mechanism: CKM_AES_GCM, parameter };
}

/** Fields of CK_TOKEN_INFO are padded with blanks, and by some with zeros. */
function trimmed(text: string): string {
  return text.replace(/[\s\0]+$/, "");
}

function call<T>(name: string, work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    throw TokenFault.from(thrown, name);
  }
}
