import { KEY_BYTES, WRAP_BYTES } from "../../envelope/gcm.ts";
import { KekError } from "../../errors/errors.ts";
import type { Under } from "../provider.ts";
import { KeyHandleCache, KeyNotFound } from "./key_handle_cache.ts";
import type { LoginPermit } from "./login.ts";
import { block } from "./module_lock.ts";
import { NoFurtherSession, type OpenSession, TokenSession } from "./session.ts";
import type { ThreadState } from "./thread_state.ts";
import type { TokenCounters } from "./token_counters.ts";
import { TokenFault } from "./token_fault.ts";
import type { TokenSettings } from "./token_settings.ts";
import { couldBeData, SURE_TRIES, UNSURE_TRIES, WrapMismatch, Wrapping } from "./wrapping.ts";

/**
 * A session that retries: what the token did not do is tried again, in a new session where needed, until it is done or the
 * time for retries is over. Blocking; lives in a worker thread.
 *
 * A token that fails and bytes that do not open look alike (SoftHSM says CKR_GENERAL_ERROR for both). So bytes are called bad
 * only after they failed several times beside a known wrap that opened.
 */
export class RetryingSession {
  readonly keys: KeyHandleCache;
  readonly wrapping: Wrapping;
  readonly #session: TokenSession;
  readonly #tokenLabel: string;
  /** Of the rewrap in hand. */
  readonly #dek = new Uint8Array(KEY_BYTES);
  /** Failures in a row, over all attempts. */
  #failures = 0;

  constructor(settings: TokenSettings, state: ThreadState, permit: LoginPermit) {
    this.#session = new TokenSession(settings, state, permit);
    this.#tokenLabel = settings.tokenLabel;
    this.wrapping = new Wrapping(settings.tokenLabel, settings.ownIvs);
    this.keys = new KeyHandleCache(this.wrapping);
  }

  /** @returns iv ‖ ciphertext ‖ tag, which was opened again and compared. */
  wrap(dek: Uint8Array, aad: Uint8Array, version: number, retryForMs: number): Uint8Array {
    return this.attempt(retryForMs, (open) => this.wrapping.wrap(open, this.keys.handle(open, version), dek, aad));
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number, retryForMs: number): Uint8Array {
    const dek = new Uint8Array(KEY_BYTES);
    this.attempt(retryForMs, (open) => this.#unwrap(open, wrapped, aad, version, dek));
    return dek;
  }

  rewrap(wrapped: Uint8Array, from: Under, to: Under, retryForMs: number): Uint8Array {
    return this.attempt(retryForMs, (open) => {
      try {
        this.#unwrap(open, wrapped, from.aad, from.version, this.#dek);
        return this.wrapping.wrap(open, this.keys.handle(open, to.version), this.#dek, to.aad);
      } finally {
        this.#dek.fill(0);
      }
    });
  }

  /**
   * Runs work with the session until it succeeds.
   * @param retryForMs how long to go on; at least one try is made.
   * @throws KekError `hsm_unavailable` when the time for retries is over, `decryption_failed`; whatever KekError the work throws; SessionUnavailable.
   */
  attempt<T>(retryForMs: number, work: (open: OpenSession) => T): T {
    const until = performance.now() + retryForMs;
    let suspected = 0;
    let mismatches = 0;
    let absent = 0;
    for (let tries = 1; ; tries += 1) {
      let fault: TokenFault;
      try {
        const result = this.#session.use(work);
        this.#failures = 0;
        return result;
      } catch (thrown) {
        if (thrown instanceof SuspectData) {
          fault = thrown.fault;
          if (this.#works(thrown.version)) {
            suspected += 1;
            this.#session.counters.fault("data");
            const enough = fault.kind === "data" ? SURE_TRIES : UNSURE_TRIES;
            if (suspected >= enough) throw doesNotOpen(thrown.version);
            // The last word is had in another session: a cluster may have a member that is out of order.
            if (suspected === enough - 1) this.#session.drop();
            block(FIRST_PAUSE_MS * Math.random());
            continue;
          }
        } else if (thrown instanceof WrapMismatch) {
          mismatches += 1;
          this.#session.counters.fault("wrap_mismatch");
          if (mismatches > SURE_TRIES) throw this.wrapping.unfit("gave a wrap that does not give the data key back");
          continue;
        } else if (thrown instanceof KeyNotFound && absent === 0) {
          absent += 1;
          this.#session.drop();
          block(MAX_PAUSE_MS / 10);
          continue;
        } else if (thrown instanceof NoFurtherSession) {
          this.#session.counters.fault("no_session");
          throw new SessionUnavailable(thrown);
        } else if (thrown instanceof TokenFault) fault = thrown;
        else throw thrown;
      }
      this.#failures += 1;
      this.#session.counters.fault(fault.kind);
      this.#recover(fault, performance.now() >= until);
      block(Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (tries - 1)) * (0.5 + Math.random() / 2));
    }
  }

  get counters(): TokenCounters {
    return this.#session.counters;
  }

  /** Closes the session and keeps the module, so that it is not finalised. */
  rest(): void {
    this.#session.drop();
  }

  close(): void {
    this.#session.close();
  }

  /** Before the next try. @throws KekError, SessionUnavailable when there is not to be one. */
  #recover(fault: TokenFault, late: boolean): void {
    if (fault.kind === "no_session") throw new SessionUnavailable(fault);
    // For C_OpenSession some answer so when all sessions are taken, maybe by other processes.
    if (fault.kind === "unsupported" && fault.call !== "C_OpenSession")
      throw this.wrapping.unfit(`refuses what is needed: ${fault.message}`, fault);
    // Once may be a hiccup, or a cluster that is busy: the session may be as good as ever.
    if (fault.kind === "lost" || fault.kind === "module" || this.#failures > 1) this.#session.drop();
    // Other sessions work: they are to do this.
    if (this.#failures >= HAND_BACK_AFTER && this.#session.othersWork) throw new SessionUnavailable(fault);
    // When a new session is not enough, the module is initialised again: its daemon may have been restarted.
    const enough = fault.kind === "module" ? 1 : fault.kind === "lost" ? RENEW_AFTER * 2 : RENEW_AFTER;
    if (this.#failures >= enough) this.#renew();
    if (late) throw this.#unavailable(fault);
  }

  #unwrap(open: OpenSession, wrapped: Uint8Array, aad: Uint8Array, version: number, dek: Uint8Array): void {
    const key = this.keys.handle(open, version);
    if (wrapped.length !== WRAP_BYTES) throw doesNotOpen(version);
    try {
      this.wrapping.unwrap(open, key, wrapped, aad, dek);
    } catch (thrown) {
      if (thrown instanceof TokenFault && couldBeData(thrown)) throw new SuspectData(thrown, version);
      throw thrown;
    }
  }

  #works(version: number): boolean {
    try {
      return this.#session.use((open) => this.keys.works(open, version));
    } catch (thrown) {
      if (thrown instanceof TokenFault || thrown instanceof WrapMismatch) return false;
      throw thrown;
    }
  }

  #renew(): void {
    try {
      this.#session.renew();
    } catch (thrown) {
      // The token is unavailable; the next try says so.
      if (!(thrown instanceof TokenFault)) throw thrown;
    }
  }

  #unavailable(fault: TokenFault): KekError {
    return new KekError(
      "hsm_unavailable",
      `token "${this.#tokenLabel}" does not answer: ${fault.message}`,
      hintOf(fault),
      {
        cause: fault,
      },
    );
  }
}

/** The token has no session left for this thread. */
export class SessionUnavailable extends Error {
  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const FIRST_PAUSE_MS = 4;
const MAX_PAUSE_MS = 500;
const RENEW_AFTER = 5;
/** Failures in a row after which a session whose neighbours work gives its work back. */
const HAND_BACK_AFTER = 4;

function hintOf({ call }: TokenFault): string {
  const up = "see that the HSM, its network and its daemon are up";
  if (call === "C_Initialize")
    return `${up}, and check the module's own configuration; this program retries until they are`;
  if (call === "C_OpenSession")
    return `${up}, and that other programs leave sessions of the token free (encryption.pkcs11.sessions limits those of each process); this program retries until then`;
  return `${up}; this program retries until they are`;
}

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

function doesNotOpen(version: number): KekError {
  return new KekError(
    "decryption_failed",
    `the wrapped data key does not open with KEK version ${version}`,
    "its bytes were changed, it was moved from another place, or the key is another one: run `certautopilot kek verify`",
  );
}
