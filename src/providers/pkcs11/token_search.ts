import { KekError } from "../../errors/errors.ts";
import { CKF } from "./constants.ts";
import type { Cryptoki, Token, UnreadableSlot } from "./cryptoki.ts";
import { restoreCommand } from "./softhsm_backup.ts";
import { emptyTokenFiles } from "./softhsm_files.ts";
import { TokenFault } from "./token_fault.ts";
import type { TokenState } from "./token_state.ts";

/** Which slot holds the token of a label. */

/** Where files of the token may be. */
export interface TokenPlace {
  modulePath: string;
  /** Where copies of SoftHSM's `token.object` are kept; undefined where none are. */
  softHsmBackup?: string | undefined;
}

/**
 * The slot in which the token was found before, or the one whose token has the label. A slot that cannot be read is skipped.
 * @param files of the token, for what is known of them.
 * @param epoch of the module: slots may be numbered otherwise once it is initialised again.
 * @throws KekError `hsm_token` when no token has the label, or several have; TokenFault while the token may come back.
 */
export function findToken(
  module: Cryptoki,
  label: string,
  tokenState: TokenState,
  epoch: number,
  files: TokenPlace,
): Token {
  const known = knownToken(module, label, tokenState, epoch);
  if (known !== undefined) return known;
  const { tokens, unreadable } = module.tokens();
  const named = tokens.filter((token) => token.label === label);
  const [token] = named;
  if (token === undefined) throw notFound(label, tokens, unreadable, tokenState, files);
  if (named.length > 1) {
    throw new KekError(
      "hsm_token",
      `${named.length} tokens are labelled "${label}": ${list(named)}`,
      "give each token a label of its own, or leave one of them out of the module's configuration",
    );
  }
  tokenState.keepSlot(token.slot, epoch);
  return token;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Enough for the module to be initialised again in between (retrying_session.ts), and within half a second. */
const LOOKS = 8;
const TOKEN_NOT_PRESENT = 0xe0;

/** The token of the slot that is known. A slot that cannot be read just now may still open sessions. */
function knownToken(module: Cryptoki, label: string, tokenState: TokenState, epoch: number): Token | undefined {
  const slot = tokenState.slot(epoch);
  if (slot === undefined) return undefined;
  try {
    const token = module.token(slot);
    if (token.label === label) return token;
  } catch (thrown) {
    if (!(thrown instanceof TokenFault)) throw thrown;
    if (!thrown.unseen)
      return { slot, label, serial: "", manufacturer: "", model: "", flags: 0, maxSessions: undefined };
  }
  tokenState.forgetSlot();
  return undefined;
}

function notFound(
  label: string,
  tokens: Token[],
  unreadable: UnreadableSlot[],
  tokenState: TokenState,
  files: TokenPlace,
): Error {
  const [broken] = unreadable;
  // One of the slots that cannot be read may hold it.
  if (broken !== undefined) {
    const slots = unreadable.map(({ slot, fault }) => `slot ${slot.readUInt32LE(0)} cannot be read (${fault.message})`);
    return new TokenFault(
      broken.fault.code,
      broken.fault.call,
      `no token is labelled "${label}" where slots can be read; ${slots.join(", ")}`,
    );
  }
  // Another process may be writing the file at this moment: SoftHSM empties it first, and hides the token until it is written.
  const mayBeWritten = tokenState.countNotFound() % LOOKS !== 0;
  const [empty] = mayBeWritten ? [] : emptyTokenFiles(files.modulePath);
  if (empty !== undefined) {
    const command = restoreCommand(empty, files.softHsmBackup);
    return new KekError(
      "hsm_token",
      `no token is labelled "${label}", and ${empty} is empty: a process was killed while SoftHSM logged in`,
      command !== undefined
        ? `run: ${command}`
        : `put your copy of that file back, with its owner and mode: its keys are in other files, and whole (docs/hsm/softhsm2.md)`,
    );
  }
  // A token that was there before may come back. The daemon of one never seen may be starting: the search is repeated.
  if (tokenState.seen || mayBeWritten)
    return new TokenFault(TOKEN_NOT_PRESENT, "C_GetSlotList", `token "${label}" is gone`);
  const there = tokens.filter(({ flags }) => (flags & CKF.tokenInitialized) !== 0);
  return new KekError(
    "hsm_token",
    `no token is labelled "${label}"; the module shows ${list(there)}`,
    there.length === 0
      ? "see the module's own configuration (SoftHSM: SOFTHSM2_CONF in this process's environment; others: docs/hsm), and that the user who runs this (the installer and the service: certautopilot) may read all that it names"
      : "set CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL to one of them, or see why the module does not show the token",
  );
}

function list(found: Token[]): string {
  if (found.length === 0) return "no token at all";
  return found.map(({ label, serial, model }) => `"${label}" (${model}, serial ${serial})`).join(", ");
}
