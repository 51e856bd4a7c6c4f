import { KekError, messageOf } from "../../errors/errors.ts";
import type { LoginClaim, LoginClaims } from "../login_claims.ts";
import { answerPermit, type PermitMessage } from "./shared_permit.ts";
import type { TokenSettings } from "./token_settings.ts";

/** Gives the threads of a pool their permits to log in, by the claims of the install; without any, at once. */
export class LoginCoordinator {
  readonly #settings: TokenSettings;
  readonly #claims: LoginClaims | undefined;
  #claim: LoginClaim | undefined;
  #giving: Promise<void> = Promise.resolve();

  constructor(settings: TokenSettings, claims: LoginClaims | undefined) {
    this.#settings = settings;
    this.#claims = claims;
  }

  handle(message: PermitMessage): void {
    if (message.kind === "logged_in") this.#give(message.refusedWith);
    else this.#take(message.change.at, message.permit);
  }

  /** Waits until the outcome of the last login is known to the install. */
  async close(): Promise<void> {
    await this.#giving;
  }

  // -------------------------------------------------------------------------------------------------------------------

  #take(changedAt: number | undefined, permit: SharedArrayBuffer): void {
    if (this.#claims === undefined) {
      answerPermit(permit, undefined);
      return;
    }
    const { tokenLabel, pin, limits } = this.#settings;
    this.#claims.take(tokenLabel, { from: pin.from, typed: pin.typed, changedAt, limitMs: limits.startMs }).then(
      (claim) => {
        this.#claim = claim;
        answerPermit(permit, undefined);
      },
      (thrown) => answerPermit(permit, thrown instanceof KekError ? thrown : unanswered(tokenLabel, thrown)),
    );
  }

  #give(refusedWith: number | undefined): void {
    const claim = this.#claim;
    this.#claim = undefined;
    // A claim that cannot be given back runs out.
    if (claim !== undefined) this.#giving = claim.give(refusedWith).catch(() => undefined);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function unanswered(tokenLabel: string, thrown: unknown): KekError {
  return new KekError(
    "hsm_unavailable",
    `token "${tokenLabel}": no login is tried while MongoDB cannot say whether its PIN was refused (${messageOf(thrown)})`,
    "see that a primary is there and the network is up; this program retries until it is",
    { cause: thrown },
  );
}
