import { Buffer } from "node:buffer";
import { createHash, randomFillSync, timingSafeEqual } from "node:crypto";
import { freshIv, IV_BYTES, KEY_BYTES, TAG_BYTES, WRAP_BYTES } from "../../envelope/gcm.ts";
import { KekError } from "../../errors/errors.ts";
import type { Proof } from "../provider.ts";
import type { Handle } from "./cryptoki.ts";
import { TokenFault } from "./faults.ts";
import { block } from "./gate.ts";
import { keyLabel, readKey, searchTemplate, unusable } from "./key_object.ts";
import { bytes, type OpenSession, TokenSession, type TokenSettings } from "./session.ts";

/**
 * A session that comes back: an operation that the token did not do is done again, in a new session if need be, until it is
 * done or the caller's patience is over. Blocking; lives in a worker thread.
 *
 * A token that fails and bytes that do not open look alike (SoftHSM says CKR_GENERAL_ERROR for both). So bytes are called bad
 * only after they failed several times beside a known wrap that opened.
 */
export class SteadySession {
  readonly #session: TokenSession;
  readonly #ownIvs: boolean;
  readonly #tokenLabel: string;
  readonly #proofs = new Map<number, Proof | undefined>();
  readonly #keys = new Map<number, Handle>();
  #keysOf: OpenSession | undefined;

  constructor(settings: TokenSettings) {
    this.#session = new TokenSession(settings);
    this.#ownIvs = settings.ownIvs;
    this.#tokenLabel = settings.tokenLabel;
  }

  /** From now on the version's key is used, and only where it opens the proof. */
  know(version: number, proof: Proof | undefined): void {
    this.#proofs.set(version, proof);
    this.#keys.delete(version);
  }

  forget(version: number): void {
    this.#proofs.delete(version);
    this.#keys.delete(version);
  }

  /** @returns iv ‖ ciphertext ‖ tag, which was opened again and compared. */
  wrap(dek: Uint8Array, aad: Uint8Array, version: number, patienceMs: number): Buffer {
    return this.attempt(patienceMs, (open) => this.#wrap(open, bytes(dek), bytes(aad), version));
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number, patienceMs: number): Buffer {
    return this.attempt(patienceMs, (open) => this.#unwrap(open, wrapped, aad, version));
  }

  rewrap(wrapped: Uint8Array, from: Under, to: Under, patienceMs: number): Buffer {
    return this.attempt(patienceMs, (open) => {
      const dek = this.#unwrap(open, wrapped, from.aad, from.version);
      try {
        return this.#wrap(open, dek, bytes(to.aad), to.version);
      } finally {
        dek.fill(0);
      }
    });
  }

  /** Makes sure that the version's key is there and is the proved one. */
  check(version: number, patienceMs: number): void {
    this.attempt(patienceMs, (open) => this.#prove(open, this.#key(open, version), version));
  }

  /**
   * Runs work with the session until it succeeds.
   * @param patienceMs how long to go on; at least one try is made.
   * @throws KekError `hsm_away` when patience is over; whatever KekError the work throws.
   */
  attempt<T>(patienceMs: number, work: (open: OpenSession) => T): T {
    const until = performance.now() + patienceMs;
    let suspected = 0;
    let miswrapped = 0;
    for (let tries = 1; ; tries += 1) {
      let fault: TokenFault;
      try {
        return this.#session.use(work);
      } catch (thrown) {
        if (thrown instanceof SuspectData) {
          fault = thrown.fault;
          if (this.#opensProof(thrown.version)) {
            suspected += 1;
            if (suspected >= (fault.kind === "data" ? SURE_TRIES : UNSURE_TRIES)) throw doesNotOpen(thrown.version);
            continue;
          }
        } else if (thrown instanceof TokenFault) fault = thrown;
        else if (thrown instanceof Miswrap) {
          miswrapped += 1;
          if (miswrapped >= SURE_TRIES) throw this.#unfit("gave a wrap that does not give the data key back");
          continue;
        } else throw thrown;
      }
      if (fault.kind === "crowded") throw new Crowded(fault);
      if (fault.kind === "unfit") throw this.#unfit(`refuses what is needed: ${fault.message}`, fault);
      this.#session.drop();
      if (performance.now() >= until) throw this.#away(fault);
      if (tries >= RENEW_AFTER && fault.kind === "away") this.#renew();
      block(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (tries - 1)) * (0.5 + Math.random() / 2));
    }
  }

  /** Finds and proves the key of a version, once a session. */
  #key(open: OpenSession, version: number): Handle {
    if (this.#keysOf !== open) {
      this.#keys.clear();
      this.#keysOf = open;
    }
    const known = this.#keys.get(version);
    if (known !== undefined) return known;
    if (!this.#proofs.has(version)) {
      throw new KekError(
        "version_not_loaded",
        `KEK version ${version} is not loaded in this process`,
        "run `certautopilot kek status` to see which versions the install uses",
      );
    }
    const key = findKey(open, version);
    this.#prove(open, key, version);
    this.#keys.set(version, key);
    return key;
  }

  /** A token that was put in the other's place may have a key of the same name: it must open what the first one wrapped. */
  #prove(open: OpenSession, key: Handle, version: number): void {
    const proof = this.#proofs.get(version);
    if (proof === undefined) return;
    if (this.opens(open, key, proof)) return;
    throw new KekError(
      "key_mismatch",
      `the key ${keyLabel(version)} in token "${open.token.label}" is not the install's: the canary of KEK version ${version} does not open`,
      "put the token back that the install was made with, or restore that key into this one",
    );
  }

  /** Whether a key opens a proof: a token that fails for a moment is given the tries that doubt asks for. */
  opens(open: OpenSession, key: Handle, proof: Proof): boolean {
    for (let tries = 1; ; tries += 1) {
      if (this.#decryptsProof(open, key, proof)) return true;
      if (tries === UNSURE_TRIES) return false;
      // Throws when it is the token that is in trouble, and not the key that is another one.
      this.#roundTrip(open, key);
    }
  }

  #decryptsProof(open: OpenSession, key: Handle, proof: Proof): boolean {
    try {
      const secret = this.#decrypt(open, key, proof.wrap, proof.aad);
      const matches = timingSafeEqual(createHash("sha256").update(secret).digest(), proof.digest);
      secret.fill(0);
      return matches;
    } catch (thrown) {
      if (thrown instanceof TokenFault && couldBeData(thrown)) return false;
      throw thrown;
    }
  }

  /** Whether the version's known wrap opens now; false also when the token does not do anything. */
  #opensProof(version: number): boolean {
    try {
      return this.#session.use((open) => {
        const key = this.#key(open, version);
        const proof = this.#proofs.get(version);
        if (proof !== undefined) return this.#decryptsProof(open, key, proof);
        this.#roundTrip(open, key);
        return true;
      });
    } catch (thrown) {
      if (thrown instanceof TokenFault || thrown instanceof Miswrap) return false;
      throw thrown;
    }
  }

  #unwrap(open: OpenSession, wrapped: Uint8Array, aad: Uint8Array, version: number): Buffer {
    const key = this.#key(open, version);
    if (wrapped.length !== WRAP_BYTES) throw doesNotOpen(version);
    try {
      return this.#decrypt(open, key, wrapped, aad);
    } catch (thrown) {
      if (thrown instanceof TokenFault && couldBeData(thrown)) throw new SuspectData(thrown, version);
      throw thrown;
    }
  }

  #wrap(open: OpenSession, dek: Buffer, aad: Buffer, version: number): Buffer {
    return this.#wrapWith(open, this.#key(open, version), dek, aad);
  }

  #wrapWith(open: OpenSession, key: Handle, dek: Buffer, aad: Buffer): Buffer {
    const given = this.#ownIvs ? Buffer.alloc(IV_BYTES) : freshIv();
    const { sealed, iv } = open.module.encrypt(open.handle, key, given, aad, dek);
    if (sealed.length !== KEY_BYTES + TAG_BYTES)
      throw this.#unfit(`answers ${sealed.length} bytes to 32 with CKM_AES_GCM, not ${KEY_BYTES + TAG_BYTES}`);
    if (iv.every((byte) => byte === 0))
      throw this.#unfit("made no IV of its own: take use_gcm_iv_from_hsm out of the configuration");
    const wrapped = Buffer.concat([iv, sealed]);
    const back = this.#decrypt(open, key, wrapped, aad);
    const same = timingSafeEqual(back, dek);
    back.fill(0);
    if (!same) throw new Miswrap();
    return wrapped;
  }

  /** @returns the 32 bytes; the caller zeroes them. */
  #decrypt(open: OpenSession, key: Handle, wrapped: Uint8Array, aad: Uint8Array): Buffer {
    const all = bytes(wrapped);
    const plain = open.module.decrypt(open.handle, key, all.subarray(0, IV_BYTES), bytes(aad), all.subarray(IV_BYTES));
    if (plain.length === KEY_BYTES) return plain;
    plain.fill(0);
    throw new TokenFault(ENCRYPTED_DATA_INVALID, "C_Decrypt");
  }

  #roundTrip(open: OpenSession, key: Handle): void {
    const secret = randomFillSync(Buffer.alloc(KEY_BYTES));
    this.#wrapWith(open, key, secret, Buffer.from("certautopilot/probe/1"));
  }

  #renew(): void {
    try {
      this.#session.renew();
    } catch (thrown) {
      // It is away altogether; the next try says so.
      if (!(thrown instanceof TokenFault)) throw thrown;
    }
  }

  #unfit(what: string, cause?: TokenFault): KekError {
    return new KekError(
      "hsm_unfit",
      `token "${this.#tokenLabel}" ${what}`,
      "see docs/hsm for tokens that are known to do it; `certautopilot kek verify` lists what this one can do",
      { cause },
    );
  }

  #away(fault: TokenFault): KekError {
    return new KekError(
      "hsm_away",
      `token "${this.#tokenLabel}" does not answer: ${fault.message}`,
      "see that the HSM, its network and its daemon are up; this program goes on by itself when they are",
      { cause: fault },
    );
  }

  close(): void {
    this.#session.close();
  }
}

export interface Under {
  version: number;
  aad: Uint8Array;
}

/** The token has no session left for this thread. */
export class Crowded extends Error {
  constructor(fault: TokenFault) {
    super(fault.message, { cause: fault });
  }
}

/** @throws KekError `key_missing`, `key_invalid`; exactly one key may have the label. */
export function findKey({ module, handle, token }: OpenSession, version: number): Handle {
  const label = keyLabel(version);
  const found = module.find(handle, searchTemplate(label));
  const [key] = found;
  if (key === undefined) {
    throw new KekError(
      "key_missing",
      `token "${token.label}" holds no key ${label}`,
      `make it: certautopilot kek pkcs11-init --version=${version}, or name the token that holds it`,
    );
  }
  if (found.length > 1) {
    throw new KekError(
      "key_invalid",
      `token "${token.label}" holds ${found.length} keys labelled ${label}: nobody can say which one is meant`,
      `compare their ids with key_id in kek_versions, and destroy the other with your token's own tool`,
    );
  }
  const wrong = unusable(readKey(module, handle, key));
  if (wrong === undefined) return key;
  throw new KekError(
    "key_invalid",
    `the key ${label} in token "${token.label}" ${wrong}`,
    "only keys made by `certautopilot kek pkcs11-init` are used",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

const ENCRYPTED_DATA_INVALID = 0x40;
const FIRST_PAUSE_MS = 4;
const MAX_PAUSE_MS = 500;
/** After so many tries in a row a new session is not enough: the module is initialized anew. */
const RENEW_AFTER = 5;
const SURE_TRIES = 2;
const UNSURE_TRIES = 4;

/** A decryption failed in a way that bad bytes may cause. */
class SuspectData extends Error {
  readonly fault: TokenFault;
  readonly version: number;

  constructor(fault: TokenFault, version: number) {
    super(fault.message);
    this.fault = fault;
    this.version = version;
  }
}

class Miswrap extends Error {}

/** Vendors answer a wrong tag with almost anything but these. */
function couldBeData(fault: TokenFault): boolean {
  const GONE = [0x3, 0x32, 0xe0, 0xe1, 0x190];
  return fault.call === "C_Decrypt" && (fault.kind === "data" || (fault.kind === "away" && !GONE.includes(fault.code)));
}

function doesNotOpen(version: number): KekError {
  return new KekError(
    "envelope_does_not_open",
    `the wrapped data key does not open with KEK version ${version}`,
    "its bytes were changed, it was moved from another place, or the key is another one: run `certautopilot kek verify`",
  );
}
