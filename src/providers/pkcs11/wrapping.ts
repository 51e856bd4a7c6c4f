import { Buffer } from "node:buffer";
import { createHash, randomFillSync, timingSafeEqual } from "node:crypto";
import { copyBytes, fillIv, IV_BYTES, KEY_BYTES, TAG_BYTES, WRAP_BYTES } from "../../envelope/gcm.ts";
import { KekError } from "../../errors/errors.ts";
import type { KeyCanary } from "../provider.ts";
import type { Handle } from "./cryptoki.ts";
import type { OpenSession } from "./session.ts";
import { TokenFault } from "./token_fault.ts";

/** Wraps and unwraps with a key in the token: one try, blocking. Whatever the token answers is checked, nothing is believed. */

/** Bytes that the token wrapped did not come back: it erred without saying so. */
export class WrapMismatch extends Error {}

/** Some tokens want more room than they fill. */
const ROOM = 64;

export class Wrapping {
  readonly #tokenLabel: string;
  readonly #ownIvs: boolean;
  /** What the token reads, and where it writes to. One thread makes one call at a time. */
  readonly #iv = new Uint8Array(IV_BYTES);
  readonly #sealed = new Uint8Array(KEY_BYTES + TAG_BYTES);
  readonly #room = new Uint8Array(ROOM);
  readonly #opened = this.#room.subarray(0, KEY_BYTES);

  constructor(tokenLabel: string, ownIvs: boolean) {
    this.#tokenLabel = tokenLabel;
    this.#ownIvs = ownIvs;
  }

  /** @returns iv ‖ ciphertext ‖ tag, opened again and compared. @throws TokenFault, WrapMismatch, KekError `hsm_unfit`. */
  wrap({ module, handle }: OpenSession, key: Handle, dek: Uint8Array, aad: Uint8Array): Uint8Array {
    const wrapped = new Uint8Array(WRAP_BYTES);
    if (this.#ownIvs) this.#iv.fill(0);
    else fillIv(this.#iv);
    const length = module.encrypt(handle, key, this.#iv, aad, dek, this.#room);
    if (length !== KEY_BYTES + TAG_BYTES)
      throw this.unfit(`answers ${length} bytes to ${KEY_BYTES} with CKM_AES_GCM, not ${KEY_BYTES + TAG_BYTES}`);
    if (this.#ownIvs && this.#iv.every((byte) => byte === 0))
      throw this.unfit("made no IV of its own: take use_gcm_iv_from_hsm out of the configuration");
    // After the call: a token that makes the IV has written it over the one given.
    copyBytes(this.#iv, 0, wrapped, 0, IV_BYTES);
    copyBytes(this.#room, 0, wrapped, IV_BYTES, KEY_BYTES + TAG_BYTES);
    copyBytes(this.#room, 0, this.#sealed, 0, KEY_BYTES + TAG_BYTES);
    try {
      const opened = module.decrypt(handle, key, this.#iv, aad, this.#sealed, this.#room);
      if (opened === KEY_BYTES && timingSafeEqual(this.#opened, dek)) return wrapped;
      throw new WrapMismatch();
    } finally {
      this.#room.fill(0);
    }
  }

  /** @param dek gets the 32 bytes; the caller zeroes it. @throws TokenFault. */
  unwrap({ module, handle }: OpenSession, key: Handle, wrapped: Uint8Array, aad: Uint8Array, dek: Uint8Array): void {
    try {
      copyBytes(wrapped, 0, this.#iv, 0, IV_BYTES);
      copyBytes(wrapped, IV_BYTES, this.#sealed, 0, KEY_BYTES + TAG_BYTES);
      const length = module.decrypt(handle, key, this.#iv, aad, this.#sealed, this.#room);
      if (length !== KEY_BYTES) throw new TokenFault(ENCRYPTED_DATA_INVALID, "C_Decrypt");
      copyBytes(this.#room, 0, dek, 0, KEY_BYTES);
    } finally {
      // Also when the tag was wrong: some tokens leave what they had decrypted by then.
      this.#room.fill(0);
    }
  }

  /** @throws TokenFault, WrapMismatch when the key does not do its work at this moment. */
  roundTrip(open: OpenSession, key: Handle): void {
    const secret = randomFillSync(Buffer.alloc(KEY_BYTES));
    this.wrap(open, key, secret, Buffer.from("certautopilot/probe/1"));
  }

  /** One try. A failure that bad bytes may cause counts as a no. */
  opensNow(open: OpenSession, key: Handle, canary: KeyCanary): boolean {
    try {
      const secret = new Uint8Array(KEY_BYTES);
      this.unwrap(open, key, canary.wrap, canary.aad, secret);
      const digest = createHash("sha256").update(secret).digest();
      secret.fill(0);
      return timingSafeEqual(digest, canary.digest);
    } catch (thrown) {
      if (thrown instanceof TokenFault && couldBeData(thrown)) return false;
      throw thrown;
    }
  }

  /** Whether a key opens a canary: a token that fails for a moment is given the tries that doubt asks for. */
  opens(open: OpenSession, key: Handle, canary: KeyCanary): boolean {
    for (let tries = 1; ; tries += 1) {
      if (this.opensNow(open, key, canary)) return true;
      if (tries === UNSURE_TRIES) return false;
      // Throws when it is the token that is in trouble, and not the key that is another one.
      this.roundTrip(open, key);
    }
  }

  unfit(what: string, cause?: TokenFault): KekError {
    return new KekError(
      "hsm_unfit",
      `token "${this.#tokenLabel}" ${what}`,
      "see docs/hsm for tokens that are known to do it; `certautopilot kek verify` lists what this one can do",
      { cause },
    );
  }
}

/** How often bytes must fail beside a known wrap that opens, before it is the bytes: when the token says so, and when it does not. */
export const SURE_TRIES = 2;
export const UNSURE_TRIES = 4;

/** Vendors answer a wrong tag with almost anything but these. */
export function couldBeData(fault: TokenFault): boolean {
  return fault.call === "C_Decrypt" && (fault.kind === "data" || (fault.kind === "unavailable" && !fault.unseen));
}

// ---------------------------------------------------------------------------------------------------------------------

const ENCRYPTED_DATA_INVALID = 0x40;
