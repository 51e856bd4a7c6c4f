import type { Buffer } from "node:buffer";
import pkcs11js from "pkcs11js";
import { IV_BYTES, TAG_BYTES } from "../../envelope/gcm.ts";
import { CKM_AES_GCM, CKM_AES_KEY_GEN } from "./constants.ts";
import { withoutStdout } from "./module_output.ts";
import type { ThreadState } from "./thread_state.ts";
import { TokenFault } from "./token_fault.ts";

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

/** A slot of which the module says nothing. */
export interface UnreadableSlot {
  slot: Handle;
  fault: TokenFault;
}

export interface MechanismFacts {
  minKeyBytes: number;
  maxKeyBytes: number;
  flags: number;
}

export type Template = { type: number; value: number | boolean | string | Buffer }[];

const CKS_RO_USER_FUNCTIONS = 1;
const CKS_RW_USER_FUNCTIONS = 3;
/** CK_UNAVAILABLE_INFORMATION as a 32-bit number, or one less (opencryptoki); zero is CK_EFFECTIVELY_INFINITE. */
const LEAST_UNKNOWN = 0xffff_fffe;
/** CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID */
const NOT_SHOWN = [0x11, 0x12];
const CKR_MECHANISM_INVALID = 0x70;
const CKR_TOKEN_WRITE_PROTECTED = 0xe2;
const CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191;
const CKR_USER_ALREADY_LOGGED_IN = 0x100;

export class Cryptoki {
  readonly #module: InstanceType<typeof pkcs11js.PKCS11>;
  /** CK_GCM_PARAMS as v2.40 errata 1 has it, with ulIvBits. One thread makes one call at a time. */
  readonly #gcm = {
    mechanism: CKM_AES_GCM,
    parameter: {
      type: pkcs11js.CK_PARAMS_AES_GCM_v240,
      iv: new Uint8Array(0) as Uint8Array,
      ivBits: IV_BYTES * 8,
      aad: new Uint8Array(0) as Uint8Array,
      tagBits: TAG_BYTES * 8,
    },
  };

  readonly #state: ThreadState;

  /** Loads the module into this thread. @throws TokenFault with code 0 and the loader's message. */
  constructor(modulePath: string, state: ThreadState) {
    this.#state = state;
    this.#module = new pkcs11js.PKCS11();
    this.#call("dlopen", () => withoutStdout(() => this.#module.load(modulePath)));
  }

  /** @returns whether it was this call that initialized the module; another part of the process may have been first. */
  initialize(): boolean {
    try {
      this.#call("C_Initialize", () =>
        withoutStdout(() => this.#module.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK })),
      );
      return true;
    } catch (thrown) {
      if (thrown instanceof TokenFault && thrown.code === CKR_CRYPTOKI_ALREADY_INITIALIZED) return false;
      throw thrown;
    }
  }

  finalize(): void {
    this.#call("C_Finalize", () => this.#module.C_Finalize());
  }

  /** Tokens that are in a slot now. Some modules list slots whose token is not for this user, or that are out of order. */
  tokens(): { tokens: Token[]; unreadable: UnreadableSlot[] } {
    const tokens: Token[] = [];
    const unreadable: UnreadableSlot[] = [];
    for (const slot of this.#call("C_GetSlotList", () => this.#module.C_GetSlotList(true))) {
      try {
        tokens.push(this.token(slot));
      } catch (thrown) {
        if (!(thrown instanceof TokenFault)) throw thrown;
        if (!thrown.noToken) unreadable.push({ slot, fault: thrown });
      }
    }
    return { tokens, unreadable };
  }

  token(slot: Handle): Token {
    const info = this.#call("C_GetTokenInfo", () => this.#module.C_GetTokenInfo(slot));
    const limits = [info.maxSessionCount, info.maxRwSessionCount].filter(
      (count) => count !== 0 && count < LEAST_UNKNOWN,
    );
    return {
      slot,
      label: trimmed(info.label),
      serial: trimmed(info.serialNumber),
      manufacturer: trimmed(info.manufacturerID),
      model: trimmed(info.model),
      flags: info.flags,
      maxSessions: limits.length === 0 ? undefined : Math.min(...limits),
    };
  }

  /** @returns undefined when the token has no such mechanism. */
  mechanism(slot: Handle, type: number): MechanismFacts | undefined {
    try {
      const info = this.#call("C_GetMechanismInfo", () => this.#module.C_GetMechanismInfo(slot, type));
      return { minKeyBytes: info.minKeySize, maxKeyBytes: info.maxKeySize, flags: info.flags };
    } catch (thrown) {
      if (thrown instanceof TokenFault && thrown.code === CKR_MECHANISM_INVALID) return undefined;
      throw thrown;
    }
  }

  /** Read-write, for some HSMs know no other (AWS CloudHSM); read-only where the token is write-protected. */
  openSession(slot: Handle): Handle {
    const open = (flags: number) => this.#call("C_OpenSession", () => this.#module.C_OpenSession(slot, flags));
    try {
      return open(pkcs11js.CKF_SERIAL_SESSION | pkcs11js.CKF_RW_SESSION);
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || thrown.code !== CKR_TOKEN_WRITE_PROTECTED) throw thrown;
      return open(pkcs11js.CKF_SERIAL_SESSION);
    }
  }

  /** A session that is lost already cannot be closed, and need not be: what the module says of it is let pass. */
  closeSession(session: Handle): void {
    try {
      this.#call("C_CloseSession", () => this.#module.C_CloseSession(session));
    } catch (thrown) {
      if (!(thrown instanceof TokenFault)) throw thrown;
    }
  }

  /** Login counts for every session of the process at once. */
  isLoggedIn(session: Handle): boolean {
    const { state } = this.#call("C_GetSessionInfo", () => this.#module.C_GetSessionInfo(session));
    return state === CKS_RO_USER_FUNCTIONS || state === CKS_RW_USER_FUNCTIONS;
  }

  login(session: Handle, pin: string): void {
    try {
      this.#call("C_Login", () => this.#module.C_Login(session, pkcs11js.CKU_USER, pin));
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || thrown.code !== CKR_USER_ALREADY_LOGGED_IN) throw thrown;
    }
  }

  /** @param most how many are wanted. */
  find(session: Handle, template: Template, most = Number.POSITIVE_INFINITY): Handle[] {
    this.#call("C_FindObjectsInit", () => this.#module.C_FindObjectsInit(session, template));
    const found: Handle[] = [];
    try {
      for (;;) {
        const some = this.#call("C_FindObjects", () => this.#module.C_FindObjects(session, 64));
        if (some.length === 0) return found;
        found.push(...some);
        if (found.length >= most) return found;
      }
    } finally {
      this.#call("C_FindObjectsFinal", () => this.#module.C_FindObjectsFinal(session));
    }
  }

  /** @returns each value; undefined for what the token does not know, or does not show. One call where it shows all. */
  attributes(session: Handle, object: Handle, types: number[]): (Buffer | undefined)[] {
    try {
      const template = types.map((type) => ({ type }));
      const read = this.#call("C_GetAttributeValue", () =>
        this.#module.C_GetAttributeValue(session, object, template as never),
      );
      return types.map((type) => read.find((entry) => entry.type === type)?.value as Buffer | undefined);
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || !NOT_SHOWN.includes(thrown.code)) throw thrown;
      return types.length === 1 ? [undefined] : types.flatMap((type) => this.attributes(session, object, [type]));
    }
  }

  generateAesKey(session: Handle, template: Template): Handle {
    const how = { mechanism: CKM_AES_KEY_GEN, parameter: null };
    return this.#call("C_GenerateKey", () => this.#module.C_GenerateKey(session, how as never, template));
  }

  destroy(session: Handle, object: Handle): void {
    this.#call("C_DestroyObject", () => this.#module.C_DestroyObject(session, object));
  }

  /**
   * The hot path: no closure, no allocation but the result.
   * @param iv of 12 bytes; a token that makes its own writes it there.
   * @returns how many bytes the token wrote into `room`: ciphertext ‖ tag.
   */
  encrypt(session: Handle, key: Handle, iv: Uint8Array, aad: Uint8Array, plain: Uint8Array, room: Uint8Array): number {
    let name = "C_EncryptInit";
    try {
      // The mechanism is a member: the memory that the token is given stays alive until the call has ended.
      this.#gcm.parameter.iv = iv;
      this.#gcm.parameter.aad = aad;
      this.#state.called();
      NATIVE.C_EncryptInit.call(this.#module, session, this.#gcm, key);
      name = "C_Encrypt";
      this.#state.called();
      return NATIVE.C_Encrypt.call(this.#module, session, plain, room);
    } catch (thrown) {
      throw TokenFault.from(thrown, name);
    }
  }

  /** @returns how many bytes of plaintext the token wrote into `room`. The caller zeroes it, also after a failure. */
  decrypt(session: Handle, key: Handle, iv: Uint8Array, aad: Uint8Array, sealed: Uint8Array, room: Uint8Array): number {
    let name = "C_DecryptInit";
    try {
      this.#gcm.parameter.iv = iv;
      this.#gcm.parameter.aad = aad;
      this.#state.called();
      NATIVE.C_DecryptInit.call(this.#module, session, this.#gcm, key);
      name = "C_Decrypt";
      this.#state.called();
      return NATIVE.C_Decrypt.call(this.#module, session, sealed, room);
    } catch (thrown) {
      throw TokenFault.from(thrown, name);
    }
  }

  #call<T>(name: string, work: () => T): T {
    this.#state.called();
    try {
      return work();
    } catch (thrown) {
      throw TokenFault.from(thrown, name);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Fields of CK_TOKEN_INFO are padded with blanks, and by some with zeros. */
function trimmed(text: string): string {
  return text.replace(/[\s\0]+$/, "");
}

interface NativeMethods {
  C_EncryptInit(session: Handle, how: object, key: Handle): void;
  C_Encrypt(session: Handle, plain: Uint8Array, room: Uint8Array): number;
  C_DecryptInit(session: Handle, how: object, key: Handle): void;
  C_Decrypt(session: Handle, sealed: Uint8Array, room: Uint8Array): number;
}

/**
 * The same methods without the layer of wrappers that pkcs11js's class lays over them: in a thread of its own, where code
 * stays cold for long, the wrappers cost as much as the calls.
 */
const NATIVE: NativeMethods = Object.getPrototypeOf(pkcs11js.PKCS11.prototype);
