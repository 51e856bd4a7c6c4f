/** A call that a PKCS#11 module did not answer with CKR_OK. `return_codes.ts` says what each code calls for. Pure. */

import { type FaultKind, kindOf, nameOf, RETURN_CODES } from "./return_codes.ts";

export type { FaultKind };
export { kindOf };

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

  /** There is no token in the slot. */
  get noToken(): boolean {
    return NO_TOKEN.includes(this.code);
  }

  /** The token did not see the call: it is not in its slot, or the module is not initialised. */
  get unseen(): boolean {
    return this.noToken || this.kind === "module";
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

// ---------------------------------------------------------------------------------------------------------------------

const NO_TOKEN: number[] = [
  RETURN_CODES.unavailable.CKR_SLOT_ID_INVALID,
  RETURN_CODES.unavailable.CKR_DEVICE_REMOVED,
  RETURN_CODES.unavailable.CKR_TOKEN_NOT_PRESENT,
  RETURN_CODES.unavailable.CKR_TOKEN_NOT_RECOGNIZED,
];
