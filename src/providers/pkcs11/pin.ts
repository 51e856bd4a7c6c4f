import { statSync } from "node:fs";
import type { Pkcs11Config } from "../../config/config.ts";
import { readPrivateFile } from "../../config/secrets_file.ts";
import { KekError } from "../../errors/errors.ts";

/** The user PIN of a token: given in the configuration, in a file of mode 0600, or asked for. */

/** Asks a person. @returns undefined where nobody can be asked. */
export type AskPin = (tokenLabel: string) => Promise<string | undefined>;

/** Where a PIN comes from: plain data. A file is read at each login. */
export interface PinSource {
  /** Given in the configuration, or typed; undefined where it is in a file, or nowhere. */
  value: string | undefined;
  file: string | undefined;
  /** In words, for an operator who has to correct it. */
  from: string;
  /** A person typed it for this one command. */
  typed: boolean;
}

/** When the source of the PIN last changed, for processes on other hosts. Says nothing of the PIN. */
export interface PinChange {
  /** The file's identity and change time, as one number; 0 where the PIN is in no file. */
  identity: bigint;
  /** Milliseconds since 1970 by this host's clock; undefined where the PIN is in no file. */
  at: number | undefined;
}

/** The PIN as it is now, and when its source changed. @throws KekError `secret_unreadable`, `secrets_file_exposed`. */
export function readPin({ value, file }: PinSource): { pin: string | undefined; change: PinChange } {
  if (file === undefined) return { pin: value, change: { identity: 0n, at: undefined } };
  // Before it is read: a change in between is seen at the next login.
  const change = changeOf(file);
  return { pin: pinOfFile(file), change };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Replacing, writing and touching a file change its time; replacing it changes its number too. */
function changeOf(path: string): PinChange {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (found === undefined) return { identity: 0n, at: undefined };
  return { identity: BigInt.asIntN(64, found.ctimeNs * 31n + found.ino), at: Number(found.ctimeNs / 1_000_000n) };
}

/** @throws KekError where a PIN cannot have been meant as it stands: it would cost a try at the token. */
export async function pinOf(config: Pkcs11Config, tokenLabel: string, askPin: AskPin | undefined): Promise<PinSource> {
  if (config.pin !== undefined) {
    const fault = faultOf(config.pin);
    if (fault === undefined) return { value: config.pin, file: undefined, from: VARIABLE, typed: false };
    throw new KekError("config_invalid", `${VARIABLE} ${fault}`, "set it to the PIN and nothing else");
  }
  if (config.pinFile !== undefined) {
    // A file that is no PIN file is refused at once, not at the first login.
    pinOfFile(config.pinFile);
    return { value: undefined, file: config.pinFile, from: `the PIN file ${config.pinFile}`, typed: false };
  }
  const value = await askPin?.(tokenLabel);
  return { value, file: undefined, from: "what was typed at the prompt", typed: value !== undefined };
}

const VARIABLE = "CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN (encryption.pkcs11.pin)";

function pinOfFile(path: string): string {
  const pin = readPrivateFile(path, "PIN file").replace(/\r?\n$/, "");
  const oneLine = pin !== "" && !pin.includes("\n");
  const fault = !oneLine
    ? "does not hold one line with the PIN"
    : /^(["']).*\1$/.test(pin)
      ? "holds the PIN in quotes, which would be taken for a part of it"
      : faultOf(pin);
  if (fault === undefined) return pin;
  throw new KekError("secret_unreadable", `PIN file ${path} ${fault}`, "write the PIN, and nothing else, into it");
}

/** What an editor or a shell has left in it. Says nothing of the PIN itself. */
function faultOf(pin: string): string | undefined {
  if (pin.startsWith("\uFEFF")) return "begins with a byte order mark (BOM)";
  if (pin.includes("\uFFFD")) return "is not UTF-8";
  if (/\p{Cc}/u.test(pin)) return "has a control character in it";
  if (pin !== pin.trim()) return "has a blank before or after the PIN";
  return undefined;
}
