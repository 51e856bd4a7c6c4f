import { isIP } from "node:net";

/**
 * Whether a request's Host is one this server is known by. A page of a stranger can make a browser send requests here under a
 * name of its own that it lets point to this address (DNS rebinding); addresses and localhost cannot be pointed anywhere.
 * Pure.
 * @param host the Host header. @param names `server.hosts`.
 */
export function hostAllowed(host: string | undefined, names: readonly string[]): boolean {
  const name = nameOf(host ?? "");
  if (name === undefined) return false;
  return isIP(name) !== 0 || name === "localhost" || names.some((known) => known.toLowerCase() === name);
}

/** Whether a request comes from no page, or from one of this server's own. Pure. */
export function originAllowed(origin: string | undefined, host: string | undefined): boolean {
  if (origin === undefined) return true;
  return /^https?:\/\/(.+)$/.exec(origin.toLowerCase())?.[1] === host?.toLowerCase();
}

// ---------------------------------------------------------------------------------------------------------------------

/** The name or address, without port and brackets. */
function nameOf(host: string): string | undefined {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]/@\s]+))(?::\d{1,5})?$/i.exec(host);
  return (match?.[1] ?? match?.[2])?.toLowerCase();
}
