import { TARGET } from "../../config/version.ts";
import { KekError } from "../../errors/errors.ts";
import { Cryptoki, type Handle, type Token } from "./cryptoki.ts";
import { type LoginPermit, logIn } from "./login.ts";
import { ModuleLock } from "./module_lock.ts";
import { closedError } from "./session_errors.ts";
import { backUpToken } from "./softhsm_backup.ts";
import type { ThreadState } from "./thread_state.ts";
import { TokenCounters } from "./token_counters.ts";
import { TokenFault } from "./token_fault.ts";
import { findToken } from "./token_search.ts";
import type { TokenSettings } from "./token_settings.ts";
import { TokenState } from "./token_state.ts";

/** A session that is open and logged in, with the module to use it by. */
export interface OpenSession {
  module: Cryptoki;
  handle: Handle;
  token: Token;
}

/** The token opens no further session now, and others of this process work. */
export class NoFurtherSession extends Error {
  constructor(fault: TokenFault) {
    super(fault.message, { cause: fault });
  }
}

/**
 * The one session of a thread. `use` is the only way to it: it opens one if there is none, and holds the module lock, so that the
 * module is not finalised during a call. Nothing is tried twice here.
 */
export class TokenSession {
  readonly moduleLock: ModuleLock;
  readonly counters: TokenCounters;
  readonly #settings: TokenSettings;
  readonly #tokenState: TokenState;
  readonly #state: ThreadState;
  readonly #permit: LoginPermit;
  #module: Cryptoki | undefined;
  #open: OpenSession | undefined;
  #epoch = -1;
  /** Whether this session is among those that the module lock counts as working. */
  #working = false;

  constructor(settings: TokenSettings, state: ThreadState, permit: LoginPermit) {
    this.#settings = settings;
    this.#state = state;
    this.#permit = permit;
    this.moduleLock = new ModuleLock(settings.moduleLock);
    this.counters = new TokenCounters(settings.counters);
    this.#tokenState = new TokenState(settings.token);
  }

  /** Whether a session is open and belongs to the current epoch of the module. */
  get isOpen(): boolean {
    return this.#open !== undefined && this.#epoch === this.moduleLock.epoch;
  }

  /** Whether other sessions of this process with this token work, while this one does not. */
  get othersWork(): boolean {
    return this.#tokenState.working > 0;
  }

  /**
   * @throws TokenFault as the module answers; NoFurtherSession; KekError `hsm_module`, `hsm_token`, `hsm_pin` where a retry
   * does not help.
   */
  use<T>(work: (open: OpenSession) => T): T {
    const open = this.isOpen && this.#open !== undefined ? this.#open : this.#openNow();
    return this.moduleLock.inside(() => {
      if (!this.isOpen) throw new TokenFault(SESSION_CLOSED, "C_GetSessionInfo");
      try {
        const result = work(open);
        this.#works(true);
        return result;
      } catch (thrown) {
        if (thrown instanceof TokenFault && thrown.kind !== "data") this.#works(false);
        throw thrown;
      }
    });
  }

  /** Gives a session up that may be broken; the next use opens another. */
  drop(): void {
    const open = this.#open;
    const epoch = this.#epoch;
    this.#open = undefined;
    this.#state.open = false;
    if (open === undefined) return;
    this.counters.closed();
    this.moduleLock.inside(() => {
      this.#works(false);
      // After a renewal the handle may be another thread's.
      if (epoch === this.moduleLock.epoch) open.module.closeSession(open.handle);
    });
  }

  /** Initialises the module again for the whole process, when a new session alone does not help. */
  renew(): void {
    const module = this.#module;
    if (module === undefined) return;
    this.drop();
    this.#starting(() =>
      this.moduleLock.renew(this.moduleLock.epoch, RENEW_WAIT_MS, () => {
        try {
          module.finalize();
        } catch (thrown) {
          // A module that lost its daemon may refuse; C_Initialize then says what is the matter.
          if (!(thrown instanceof TokenFault)) throw thrown;
        }
        module.initialize();
      }),
    );
  }

  close(): void {
    this.drop();
    const module = this.#module;
    this.#module = undefined;
    if (module !== undefined) this.moduleLock.part(() => module.finalize());
  }

  // -------------------------------------------------------------------------------------------------------------------

  #works(does: boolean): void {
    if (does === this.#working) return;
    this.#working = does;
    this.moduleLock.count(does ? 1 : -1, this.#epoch);
    this.#tokenState.count(does ? 1 : -1, this.#epoch);
  }

  #starting<T>(work: () => T): T {
    this.#state.starting = true;
    try {
      return work();
    } finally {
      this.#state.starting = false;
    }
  }

  #openNow(): OpenSession {
    if (this.#open !== undefined) this.counters.closed();
    this.#open = undefined;
    this.#state.open = false;
    return this.#starting(() =>
      this.moduleLock.exclusively(() => {
        this.#module ??= this.#load();
        const module = this.#module;
        return this.moduleLock.inside(() => {
          // The sessions that an older epoch counted ended with it.
          if (this.#epoch === this.moduleLock.epoch) this.#works(false);
          this.#working = false;
          this.#epoch = this.moduleLock.epoch;
          this.#tokenState.startEpoch(this.#epoch);
          try {
            this.#open = this.#openIn(module);
          } catch (thrown) {
            // Whatever it answers: it works for others, so this is the token's limit and not its end.
            if (thrown instanceof TokenFault && this.othersWork) throw new NoFurtherSession(thrown);
            throw thrown;
          }
          this.#tokenState.markSeen();
          this.counters.opened();
          this.#state.open = true;
          return this.#open;
        });
      }),
    );
  }

  #openIn(module: Cryptoki): OpenSession {
    // The last session may have been closed already, and with it the login: another one would be for nothing.
    if (this.#state.closing) throw closedError();
    const { tokenLabel, modulePath, softHsmBackup } = this.#settings;
    const token = findToken(module, tokenLabel, this.#tokenState, this.moduleLock.epoch, this.#settings);
    const handle = this.#sessionIn(module, token);
    try {
      if (!module.isLoggedIn(handle)) {
        if (softHsmBackup !== undefined) backUpToken(modulePath, softHsmBackup, token.serial);
        logIn(this.#settings, this.#tokenState, this.#permit, module, handle, token.slot);
      }
    } catch (thrown) {
      module.closeSession(handle);
      throw thrown;
    }
    return { module, handle, token };
  }

  #sessionIn(module: Cryptoki, token: Token): Handle {
    try {
      return module.openSession(token.slot);
    } catch (thrown) {
      if (thrown instanceof TokenFault && thrown.noToken) this.#tokenState.forgetSlot();
      throw thrown;
    }
  }

  #load(): Cryptoki {
    const { modulePath } = this.#settings;
    const module = this.#loaded(modulePath);
    this.moduleLock.join(() => module.initialize());
    return module;
  }

  /** @throws KekError `hsm_module` for a file that cannot be loaded; a module that cannot be initialised is a fault to retry. */
  #loaded(modulePath: string): Cryptoki {
    try {
      return new Cryptoki(modulePath, this.#state);
    } catch (thrown) {
      if (!(thrown instanceof TokenFault)) throw thrown;
      throw new KekError(
        "hsm_module",
        `the PKCS#11 module ${modulePath} cannot be used: ${thrown.message}`,
        `check CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH, that the module is built for ${BUILT_FOR}, and its own configuration`,
        { cause: thrown },
      );
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Most vendors build for glibc alone, and musl's loader takes such a module for one of its own until a symbol is missing. */
const BUILT_FOR =
  TARGET === "linux-x64-musl"
    ? "musl as this program is (if the vendor has it for glibc only, run the linux-x64 release on a host with glibc)"
    : "this machine";

const SESSION_CLOSED = 0xb0;
const RENEW_WAIT_MS = 3000;
