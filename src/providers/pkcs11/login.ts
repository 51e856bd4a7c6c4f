import { KekError } from "../../errors/errors.ts";
import { CKF } from "./constants.ts";
import type { Cryptoki, Handle } from "./cryptoki.ts";
import { type PinChange, type PinSource, readPin } from "./pin.ts";
import { TokenFault } from "./token_fault.ts";
import type { TokenState } from "./token_state.ts";

/** Logs in, and never sends a PIN again that the token refused: a few wrong ones lock it. */

/** Asks whether this process may log in now; other processes of the install may be at it. Blocks. */
export interface LoginPermit {
  /** @throws KekError `hsm_pin` when the PIN may be one that was refused; `hsm_unavailable` when nobody can say so now. */
  take(source: PinChange): void;
  /** What came of it. @param refusedWith the token's code; 0 when it accepted the PIN; undefined when it did neither. */
  give(refusedWith: number | undefined): void;
}

/** @throws TokenFault as the module answers; KekError `hsm_pin`, `secret_unreadable`, `secrets_file_exposed`. */
export function logIn(
  settings: { tokenLabel: string; pin: PinSource },
  tokenState: TokenState,
  permit: LoginPermit,
  module: Cryptoki,
  handle: Handle,
  slot: Handle,
): void {
  const { tokenLabel, pin: source } = settings;
  const refuse = (what: string, hint: string) => new KekError("hsm_pin", `token "${tokenLabel}": ${what}`, hint);
  const { pin, change } = readPin(source);
  const before = tokenState.refusedFor(change.identity);
  if (before !== 0) throw refused(settings, new TokenFault(before, "C_Login"), " before");
  // Read now: another process may have tried a wrong one.
  const { flags } = module.token(slot);
  if ((flags & CKF.userPinLocked) !== 0)
    throw refuse("the user PIN is locked", "have the token's security officer set it again");
  if ((flags & CKF.userPinFinalTry) !== 0)
    throw refuse(
      "one more wrong PIN would lock it (CKF_USER_PIN_FINAL_TRY), so none is tried",
      "log in once with the vendor's own tool, which resets the count, then start again",
    );
  if (pin === undefined)
    throw refuse(
      "no PIN is given",
      "set CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE (a file of mode 0600) or CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN",
    );
  permit.take(change);
  let refusedWith: number | undefined;
  try {
    module.login(handle, pin);
    refusedWith = 0;
  } catch (thrown) {
    if (!(thrown instanceof TokenFault) || !isRefusal(thrown, tokenState)) throw thrown;
    refusedWith = thrown.code;
    tokenState.refuse(thrown.code, change.identity);
    throw refused(settings, thrown, "");
  } finally {
    permit.give(refusedWith);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const PIN_NOT_INITIALIZED = 0x102;
const UNCLEAR_LOGINS = 1;
/** The token has not even looked at the PIN. */
const UNTRIED_LOGINS = 20;

/** @param when " before" for a refusal that this process has met already. */
function refused(
  { tokenLabel, pin: source }: { tokenLabel: string; pin: PinSource },
  fault: TokenFault,
  when: "" | " before",
): KekError {
  const isPin = fault.kind === "pin";
  const what = isPin
    ? `the PIN was refused${when} (${fault.message})`
    : fault.code === PIN_NOT_INITIALIZED
      ? `the login failed${when}: the token says that no user PIN is set (${fault.message})`
      : `the login failed${when}, and may have counted as a wrong PIN (${fault.message})`;
  const first = isPin ? "" : "see what the token's own tool or log says; ";
  const hint =
    source.file === undefined
      ? `${first}the PIN is from ${source.from}: correct it, then start this process again; each start sends it once, also a start by a supervisor, and may lock the token`
      : `${first}the PIN is from ${source.from}: write the right PIN into it; it is read again when it has changed, and not tried before`;
  return new KekError("hsm_pin", `token "${tokenLabel}": ${what}`, hint);
}

/**
 * A PIN that has been accepted once is right until the token says otherwise. One that never was, and fails without a word
 * about it, is tried once more and no further: some tokens say "function failed" to a wrong PIN, and count it.
 */
function isRefusal(fault: TokenFault, tokenState: TokenState): boolean {
  if (fault.kind === "pin") return true;
  if (tokenState.seen || fault.kind === "lost" || fault.kind === "no_session" || fault.unseen) return false;
  const vendors = fault.code >= 0x8000_0000;
  return (
    vendors || tokenState.countUnclearLogin() > (fault.code === PIN_NOT_INITIALIZED ? UNTRIED_LOGINS : UNCLEAR_LOGINS)
  );
}
