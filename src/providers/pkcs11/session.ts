import { TARGET } from "../../config/version.ts";
import { KekError } from "../../errors/errors.ts";
import { CKF } from "./constants.ts";
import { Cryptoki, type Handle, type Token } from "./cryptoki.ts";
import { TokenFault } from "./faults.ts";
import { Gate, LoginMemory } from "./gate.ts";
import { TokenTally } from "./tally.ts";

/** How a thread reaches its token: plain data, handed from thread to thread. */
export interface TokenSettings {
  modulePath: string;
  tokenLabel: string;
  pin: string | undefined;
  /** Where it is from, in words. */
  pinFrom: string;
  /** The token makes the IVs of GCM itself, and takes none (`use_gcm_iv_from_hsm`). */
  ownIvs: boolean;
  /** Shared by all threads of the process that use the module. */
  gate: SharedArrayBuffer;
  /** Shared by all that would log in to this token with this PIN. */
  login: SharedArrayBuffer;
  /** Shared by all sessions of one provider. */
  tally: SharedArrayBuffer;
}

/** A session that is open and logged in, with the module to use it by. */
export interface OpenSession {
  module: Cryptoki;
  handle: Handle;
  token: Token;
}

/**
 * The one session of a thread. `use` is the only way to it: it opens one if there is none, and holds the gate, so that the
 * module is not finalized meanwhile. Nothing is tried twice here.
 */
export class TokenSession {
  readonly gate: Gate;
  readonly tally: TokenTally;
  readonly #settings: TokenSettings;
  readonly #memory: LoginMemory;
  #module: Cryptoki | undefined;
  #open: OpenSession | undefined;
  #epoch = -1;

  constructor(settings: TokenSettings) {
    this.#settings = settings;
    this.gate = new Gate(settings.gate);
    this.tally = new TokenTally(settings.tally);
    this.#memory = new LoginMemory(settings.login);
  }

  /** Whether a session is open that this thread has not lost sight of. */
  get isOpen(): boolean {
    return this.#open !== undefined && this.#epoch === this.gate.epoch;
  }

  /** @throws TokenFault as the module answers; KekError `hsm_module`, `hsm_token`, `hsm_pin` where trying again is of no use. */
  use<T>(work: (open: OpenSession) => T): T {
    const open = this.isOpen && this.#open !== undefined ? this.#open : this.#openNow();
    return this.gate.inside(() => {
      if (!this.isOpen) throw new TokenFault(SESSION_CLOSED, "C_GetSessionInfo");
      return work(open);
    });
  }

  /** Gives a session up that may be broken; the next use opens another. */
  drop(): void {
    const open = this.#open;
    const epoch = this.#epoch;
    this.#open = undefined;
    if (open === undefined) return;
    this.tally.gone();
    this.gate.inside(() => {
      // After a renewal the handle may be another thread's.
      if (epoch === this.gate.epoch) open.module.closeSession(open.handle);
    });
  }

  /** Initializes the module anew for the whole process, when a session alone cannot be had again. */
  renew(): void {
    const module = this.#module;
    if (module === undefined) return;
    this.drop();
    this.gate.renew(this.gate.epoch, RENEW_PATIENCE_MS, () => {
      try {
        module.finalize();
      } catch (thrown) {
        // A module that lost its daemon may refuse; C_Initialize then says what is the matter.
        if (!(thrown instanceof TokenFault)) throw thrown;
      }
      module.initialize();
    });
  }

  close(): void {
    this.drop();
    const module = this.#module;
    this.#module = undefined;
    if (module !== undefined) this.gate.part(() => module.finalize());
  }

  // -------------------------------------------------------------------------------------------------------------------

  #openNow(): OpenSession {
    if (this.#open !== undefined) this.tally.gone();
    this.#open = undefined;
    return this.gate.exclusively(() => {
      this.#module ??= this.#load();
      const module = this.#module;
      return this.gate.inside(() => {
        this.#epoch = this.gate.epoch;
        const token = this.#findToken(module);
        const handle = module.openSession(token.slot);
        try {
          if (!module.isLoggedIn(handle)) this.#login(module, handle, token);
        } catch (thrown) {
          module.closeSession(handle);
          throw thrown;
        }
        this.#open = { module, handle, token };
        this.#memory.meet();
        this.tally.opened();
        return this.#open;
      });
    });
  }

  #load(): Cryptoki {
    const { modulePath } = this.#settings;
    try {
      const module = new Cryptoki(modulePath);
      this.gate.join(() => module.initialize());
      return module;
    } catch (thrown) {
      // A module that worked before is not a wrong one: its daemon may be away.
      if (!(thrown instanceof TokenFault) || this.#memory.met) throw thrown;
      throw new KekError(
        "hsm_module",
        `the PKCS#11 module ${modulePath} cannot be used: ${thrown.message}`,
        `check CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH, that the module is built for ${BUILT_FOR}, and its own configuration`,
        { cause: thrown },
      );
    }
  }

  #findToken(module: Cryptoki): Token {
    const { tokenLabel } = this.#settings;
    const tokens = module.tokens();
    const named = tokens.filter((token) => token.label === tokenLabel);
    const [token] = named;
    if (named.length === 1 && token !== undefined) return token;
    const list = (found: Token[]) =>
      found.length === 0
        ? "no token at all"
        : found.map(({ label, serial, model }) => `"${label}" (${model}, serial ${serial})`).join(", ");
    if (named.length > 1) {
      throw new KekError(
        "hsm_token",
        `${named.length} tokens are labelled "${tokenLabel}": ${list(named)}`,
        "give each token a label of its own, or leave one of them out of the module's configuration",
      );
    }
    const there = tokens.filter(({ flags }) => (flags & CKF.tokenInitialized) !== 0);
    // A token that was there before has been pulled, and may come back. One never seen may be in the middle of a write of
    // another process (SoftHSM hides it meanwhile), or its daemon may be starting: it is looked for a few times.
    if (this.#memory.met || this.#memory.miss() % LOOKS !== 0)
      throw new TokenFault(TOKEN_NOT_PRESENT, "C_GetSlotList", `token "${tokenLabel}" is gone`);
    throw new KekError(
      "hsm_token",
      `no token is labelled "${tokenLabel}"; the module shows ${list(there)}`,
      there.length === 0
        ? "see the module's own configuration (SoftHSM: SOFTHSM2_CONF in this process's environment; others: docs/hsm), and that the user who runs this (the installer and the service: certautopilot) may read all that it names"
        : "set CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL to one of them, or see why the module does not show the token",
    );
  }

  /** Once a process, and never after a refusal: a token locks after a few wrong PINs. */
  #login(module: Cryptoki, handle: Handle, token: Token): void {
    const { pin, tokenLabel } = this.#settings;
    const refuse = (what: string, hint: string) => new KekError("hsm_pin", `token "${tokenLabel}": ${what}`, hint);
    const before = this.#memory.refused;
    if (before !== 0) throw this.#refused(new TokenFault(before, "C_Login"), " before");
    if ((token.flags & CKF.userPinLocked) !== 0)
      throw refuse("the user PIN is locked", "have the token's security officer set it anew");
    if ((token.flags & CKF.userPinFinalTry) !== 0)
      throw refuse(
        "one more wrong PIN would lock it (CKF_USER_PIN_FINAL_TRY), so none is tried",
        "log in once with the vendor's own tool, which resets the count, then start again",
      );
    if (pin === undefined)
      throw refuse(
        "no PIN is given",
        "set CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE (a file of mode 0600) or CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN",
      );
    try {
      module.login(handle, pin);
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || !this.#isRefusal(thrown)) throw thrown;
      this.#memory.refuse(thrown.code);
      throw this.#refused(thrown, "");
    }
  }

  /** @param when " before" for what another thread of this process has met. */
  #refused(fault: TokenFault, when: "" | " before"): KekError {
    const { pinFrom, tokenLabel } = this.#settings;
    const each = "each start of a process tries it anew, also one by a supervisor, and may lock the token";
    const refused = fault.kind === "pin";
    const what = refused
      ? `the PIN was refused${when} (${fault.message})`
      : fault.code === PIN_NOT_INITIALIZED
        ? `the login failed${when}: the token says that no user PIN is set (${fault.message})`
        : `the login failed${when}, and may have counted as a wrong PIN (${fault.message})`;
    const hint = refused
      ? `the PIN is from ${pinFrom}: mend it, then start this process again; ${each}`
      : `see what the token's own tool or log says, and that the PIN from ${pinFrom} is right, then start this process again; ${each}`;
    return new KekError("hsm_pin", `token "${tokenLabel}": ${what}`, hint);
  }

  /**
   * A PIN that has been accepted once is right until the token says otherwise. One that never was, and fails without a word
   * about it, is tried once more and no further: some tokens say "function failed" to a wrong PIN, and count it.
   */
  #isRefusal(fault: TokenFault): boolean {
    if (fault.kind === "pin") return true;
    if (this.#memory.met || fault.kind === "lost" || fault.kind === "crowded") return false;
    if (fault.unseen) return false;
    const vendors = fault.code >= 0x8000_0000;
    return vendors || this.#memory.doubt() > (fault.code === PIN_NOT_INITIALIZED ? UNTRIED_LOGINS : DOUBTFUL_LOGINS);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Most vendors build for glibc alone, and musl's loader takes such a module for one of its own until a symbol is missing. */
const BUILT_FOR =
  TARGET === "linux-x64-musl"
    ? "musl as this program is (if the vendor has it for glibc only, run the linux-x64 release on a host with glibc)"
    : "this machine";

const PIN_NOT_INITIALIZED = 0x102;
const DOUBTFUL_LOGINS = 1;
/** The token has not even looked at the PIN. */
const UNTRIED_LOGINS = 20;
/** Enough for the module to be initialized anew in between (steady.ts), and within half a second. */
const LOOKS = 8;
const SESSION_CLOSED = 0xb0;
const TOKEN_NOT_PRESENT = 0xe0;
const RENEW_PATIENCE_MS = 3000;
