import { hostname } from "node:os";
import process from "node:process";

/** The only reader of the process's environment. */

export const PREFIX = "CERTAUTOPILOT_";

/** Every `CERTAUTOPILOT_…` variable that is set and not empty. */
export function readEnvironment(): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (name.startsWith(PREFIX) && value !== undefined && value !== "") found[name] = value;
  }
  return found;
}

/** The environment for a child process: ours, with these variables set over it. Keys travel here, never in argv. */
export function childEnvironment(over: Record<string, string>): Record<string, string> {
  const inherited: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !name.startsWith(PREFIX)) inherited[name] = value;
  }
  return { ...inherited, ...over };
}

/** The configuration of SoftHSM that this process's library reads; undefined where it takes the system's. */
export function softHsmConfiguration(): string | undefined {
  return process.env["SOFTHSM2_CONF"] || undefined;
}

/** The environment for a child that runs as another user: nothing of this user's own but where programs are. */
export function bareEnvironment(over: Record<string, string>): Record<string, string> {
  return { PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin", ...over };
}

/** The point at which a test wants this process to die, `errors/crash_point.ts`; never set outside tests. */
export function crashPointAsked(): string | undefined {
  return process.env[`${PREFIX}TEST_CRASH_AT`] || undefined;
}

/** A path to a mongod given by the operator, or the directories of PATH to look in. */
export function mongodHints(): { binary: string | undefined; path: string[] } {
  return { binary: process.env[`${PREFIX}MONGOD`], path: (process.env["PATH"] ?? "").split(":").filter(Boolean) };
}

/** Whether colours are unwelcome (https://no-color.org). */
export function noColour(): boolean {
  return Boolean(process.env["NO_COLOR"]);
}

/** Whether the terminal can only be written on line by line. */
export function dumbTerminal(): boolean {
  return process.env["TERM"] === "dumb";
}

/** The file of trusted certificates that OpenSSL's variable names. */
export function certificateFileAsked(): string | undefined {
  return process.env["SSL_CERT_FILE"] || undefined;
}

/** The file of certificates that the runtime trusts in addition. */
export function extraCertificateFileAsked(): string | undefined {
  return process.env["NODE_EXTRA_CA_CERTS"] || undefined;
}

export function hostName(): string {
  return hostname();
}
