import { createHash } from "node:crypto";
import type { Pkcs11Config } from "../../config/config.ts";
import { readPrivateFile } from "../../config/secrets_file.ts";
import { KekError } from "../../errors/errors.ts";
import { Gate, LoginMemory } from "./gate.ts";
import type { TokenSettings } from "./session.ts";
import { TokenTally } from "./tally.ts";

/** From the configuration to what a session needs. The PIN: given, in a file of mode 0600, or asked for. */

/** Asks a person. @returns undefined where nobody can be asked. */
export type AskPin = (tokenLabel: string) => Promise<string | undefined>;

/** More threads than this cost more than they bring; an operator may ask for more. */
const DEFAULT_SESSIONS = 32;

/** @throws KekError `config_invalid`, `secret_unreadable`, `secrets_file_exposed`, naming the setting. */
export async function tokenSettings(
  config: Pkcs11Config,
  askPin: AskPin | undefined,
): Promise<{ token: TokenSettings; sessions: number }> {
  const { ownIvs = false } = config;
  const modulePath = required(config.modulePath, "MODULE_PATH", "module_path", "the vendor's PKCS#11 library (.so)");
  const tokenLabel = required(config.tokenLabel, "TOKEN_LABEL", "token_label", "the label of the token to use");
  const { pin, from: pinFrom } = await pinOf(config, tokenLabel, askPin);
  const gate = shared(gates, modulePath, () => new Gate().memory);
  const login = shared(logins, JSON.stringify([modulePath, tokenLabel, digestOf(pin)]), () => new LoginMemory().memory);
  const tally = new TokenTally().memory;
  const token = { modulePath, tokenLabel, pin, pinFrom, ownIvs, gate, login, tally };
  return { token, sessions: config.sessions ?? DEFAULT_SESSIONS };
}

// ---------------------------------------------------------------------------------------------------------------------

/** A module is initialized once a process, whoever uses it. */
const gates = new Map<string, SharedArrayBuffer>();
/** A PIN that was refused is not tried again by this process, however often it opens the token. Another one is. */
const logins = new Map<string, SharedArrayBuffer>();

function shared<T>(all: Map<string, T>, name: string, make: () => T): T {
  const found = all.get(name) ?? make();
  all.set(name, found);
  return found;
}

function digestOf(pin: string | undefined): string | undefined {
  return pin && createHash("sha256").update(pin).digest("hex");
}

/** The PIN, and where it is from, for an operator who has to mend it. */
interface Pin {
  pin: string | undefined;
  from: string;
}

/** @throws KekError where a PIN cannot have been meant as it stands: it would cost a try at the token. */
async function pinOf(config: Pkcs11Config, tokenLabel: string, askPin: AskPin | undefined): Promise<Pin> {
  if (config.pin !== undefined) {
    const fault = faultOf(config.pin);
    if (fault === undefined) return { pin: config.pin, from: VARIABLE };
    throw new KekError("config_invalid", `${VARIABLE} ${fault}`, "set it to the PIN and nothing else");
  }
  if (config.pinFile !== undefined) return { pin: pinOfFile(config.pinFile), from: `the PIN file ${config.pinFile}` };
  return { pin: await askPin?.(tokenLabel), from: "what was typed at the prompt" };
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

function required(value: string | undefined, variable: string, key: string, what: string): string {
  if (value !== undefined) return value;
  throw new KekError(
    "config_invalid",
    `CERTAUTOPILOT_ENCRYPTION_PKCS11_${variable} (encryption.pkcs11.${key}) is not set`,
    `the pkcs11 provider needs ${what}: see docs/hsm`,
  );
}
