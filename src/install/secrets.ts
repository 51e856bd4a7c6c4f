import type { ProviderName } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import type { GeneratedSecrets } from "./generated_secrets.ts";
import { LAYOUT } from "./layout.ts";

/** The text of secrets.env. Pure. A line that is there stays as it is; only what is missing is added below. */

export interface DesiredSecrets {
  provider: ProviderName;
  /** Undefined while there is no database yet. */
  uri: string | undefined;
  /** What was taken from another host of the fleet (`--secrets-from`). */
  carried: Record<string, string> | undefined;
  /** False on an installed host: what is declared there is not touched. */
  isFirst: boolean;
}

const URI = "CERTAUTOPILOT_DATABASE_URI";
const AUDIT = "CERTAUTOPILOT_AUDIT_SECRET";
const DECLARED = "CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION";
const KEK = /^CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V(\d+)$/;

/** What a host needs of another's secrets file: keys, declared version, audit secret and database, nothing else. */
export function carriedFrom(values: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).filter(([name]) => KEK.test(name) || [URI, AUDIT, DECLARED].includes(name)),
  );
}

/** What data of this install cannot do without, as far as it is not in these values. */
export function missingSecrets(values: Record<string, string>, provider: ProviderName): string[] {
  const keks = HELD_BY_HOSTS[provider] && !holdsKeys(values) ? ["CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V…"] : [];
  return [...keks, ...(values[AUDIT] === undefined ? [AUDIT] : [])];
}

/** Whether each host of a fleet has the bytes of the keys. */
export const HELD_BY_HOSTS: Record<ProviderName, boolean> = { env: true, pkcs11: false };

export const holdsKeys = (values: Record<string, string>) => Object.keys(values).some((name) => KEK.test(name));

/**
 * @param text of the file as it is; undefined when there is none.
 * @param there its values.
 * @throws KekError `refused` when what is carried, or the URI, contradicts a line that is there.
 */
export function secretsText(
  text: string | undefined,
  there: Record<string, string>,
  wanted: DesiredSecrets,
  material: GeneratedSecrets,
): string {
  const lines: [string, string][] = [];
  const add = (name: string, value: string) => {
    if (there[name] === undefined) lines.push([name, value]);
    else if (there[name] !== value) throw contradicts(name);
  };
  if (wanted.carried === undefined) {
    if (wanted.isFirst && there[DECLARED] === undefined) {
      for (const [name, value] of FIRST_KEY[wanted.provider](there, material)) add(name, value);
      const versions = Object.keys(there).flatMap((name) => KEK.exec(name)?.[1] ?? []);
      // Of several keys that somebody has put there, nobody but they know which is to be first.
      if (versions.length < 2) add(DECLARED, versions[0] ?? "1");
    }
    if (there[AUDIT] === undefined) add(AUDIT, material.auditSecret);
  } else {
    // A version that this host declares already may have moved on since the file was copied.
    for (const [name, value] of Object.entries(wanted.carried)) {
      if (name !== URI && !(name === DECLARED && there[DECLARED] !== undefined)) add(name, value);
    }
  }
  if (wanted.uri !== undefined) add(URI, wanted.uri);
  if (lines.length === 0) return text ?? "";
  const before = text === undefined ? HEADER : text.endsWith("\n") || text === "" ? text : `${text}\n`;
  return `${before}${lines.map(([name, value]) => `${name}=${value}\n`).join("")}`;
}

// ---------------------------------------------------------------------------------------------------------------------

const HEADER = `# The keys of certautopilot: whoever loses them loses every secret. Keep a copy where your keys are kept, off this host.
# Running processes read KEK and CURRENT_VERSION lines again at once.
`;

/** Keys in a token are made there. */
const FIRST_KEY: Record<
  ProviderName,
  (there: Record<string, string>, material: GeneratedSecrets) => [string, string][]
> = {
  env: (there, { kek }) => (holdsKeys(there) ? [] : [["CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1", kek]]),
  pkcs11: () => [],
};

function contradicts(name: string): KekError {
  return new KekError(
    "refused",
    `${LAYOUT.secrets} has another ${name} than what was given, and install never changes a secret`,
    "leave the flag out to keep what is there; or change that line yourself, and restart the service",
  );
}
