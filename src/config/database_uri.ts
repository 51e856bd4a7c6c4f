import { KekError } from "../errors/errors.ts";

/** What can be told from a MongoDB URI without connecting: pure. */

/** What MongoDB forbids in the name of a database, on any platform. */
export const DATABASE_NAME = /^[^/\\. "$*<>:|?\0]{1,63}$/;

/** A password with a raw `@`, `/` or `:` would be taken for a host, looked up in DNS, and printed. */
export function checkUri(uri: string): void {
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

export function databaseOfUri(uri: string): string | undefined {
  const path = /^mongodb(?:\+srv)?:\/\/[^/]+\/([^?]*)/.exec(uri)?.[1];
  try {
    return path ? decodeURIComponent(path) : undefined;
  } catch {
    // Not percent-encoded: the name, as it stands, is refused by the next check.
    return path;
  }
}
