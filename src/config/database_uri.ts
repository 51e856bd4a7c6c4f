import { KekError } from "../errors/errors.ts";

/** What can be told from a MongoDB URI without connecting: pure. */

/** What MongoDB forbids in the name of a database, on any platform. */
export const DATABASE_NAME = /^[^/\\. "$*<>:|?\0]{1,63}$/;

/**
 * Options of the driver that weaken what the protocol stands on, with the values that do not. The driver lets some of them
 * override what this program sets (read concern, journal, wtimeout, tags); the others it ignores beside ours, and an operator
 * who sets one expects an effect that must not happen. Keyed in lower case: names of options are case-insensitive.
 */
const GUARANTEES = new Map<string, { name: string; allowed: string[] }>(
  Object.entries({
    readConcernLevel: ["majority"],
    w: ["majority"],
    writeConcern: ["majority"],
    journal: ["true"],
    j: ["true"],
    fsync: [],
    wtimeoutMS: ["0"],
    wtimeout: ["0"],
    readPreference: ["primary"],
    readPreferenceTags: [],
    maxStalenessSeconds: [],
    retryWrites: ["true"],
    retryReads: ["true"],
  }).map(([name, allowed]) => [name.toLowerCase(), { name, allowed }]),
);

/**
 * A URI that the driver can be given: of the right form, and without options that contradict this program's guarantees.
 * @throws KekError `config_invalid`, naming the options and never their values.
 */
export function checkUri(uri: string): void {
  checkForm(uri);
  const found = new Set<string>();
  for (const [key, value] of optionsOf(uri)) {
    const rule = GUARANTEES.get(key.toLowerCase());
    if (rule !== undefined && !rule.allowed.includes(value)) found.add(rule.name);
  }
  if (found.size === 0) return;
  const names = [...found].join(", ");
  throw new KekError(
    "config_invalid",
    `CERTAUTOPILOT_DATABASE_URI (database.uri) sets ${names}: this program reads from the primary with majority, writes with majority and journal without a time limit, and retries`,
    `remove ${names} from the URI: what this program needs, it sets itself`,
  );
}

/** The first value of an option, whatever the case of its name. */
export function uriOption(uri: string, name: string): string | undefined {
  return optionsOf(uri).find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1];
}

export function databaseOfUri(uri: string): string | undefined {
  const path = /^mongodb(?:\+srv)?:\/\/[^/]+\/([^?]*)/.exec(uri)?.[1];
  try {
    return path ? decodeURIComponent(path) : undefined;
  } catch {
    // Not percent-encoded: the name, as it stands, is refused by the next check.
    return path;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** As the driver reads them: the parser of URLs drops tabs and line breaks, and the fragment is no part of the query. */
function optionsOf(uri: string): [string, string][] {
  const query = /^[^?#]*\?([^#]*)/.exec(uri.replace(/[\t\n\r]/g, ""))?.[1] ?? "";
  return query
    .split("&")
    .filter((option) => option !== "")
    .map((option) => {
      const at = option.indexOf("=");
      return at < 0 ? [decoded(option), ""] : [decoded(option.slice(0, at)), decoded(option.slice(at + 1))];
    });
}

/** What cannot be decoded stays as it is, as the driver has it; no option that is looked for here needs an escape. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    return text;
  }
}

/** A password with a raw `@`, `/` or `:` would be taken for a host, looked up in DNS, and printed. */
function checkForm(uri: string): void {
  const rest = /^mongodb(?:\+srv)?:\/\/([\s\S]*)$/.exec(uri)?.[1];
  const [authority = "", ...path] = (rest ?? "").split("?")[0]?.split("/") ?? [];
  const credentials = authority.includes("@") ? authority.slice(0, authority.lastIndexOf("@")) : "";
  if (
    rest === undefined ||
    path.join("/").includes("@") ||
    credentials.includes("@") ||
    credentials.split(":").length > 2
  ) {
    throw new KekError(
      "config_invalid",
      "CERTAUTOPILOT_DATABASE_URI (database.uri) is not a MongoDB URI",
      "write it as mongodb://user:password@host:27017/?replicaSet=rs0, with @ : / in the password as %40 %3A %2F",
    );
  }
}
