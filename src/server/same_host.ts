import { isIP } from "node:net";

/**
 * Whose requests are answered: pure rules. A page elsewhere can make a browser send requests here under a name of its own
 * (DNS rebinding); it cannot choose an address, and `localhost` is not its to give.
 */

/** @param names of `server.hosts`. */
export function isOwnHost(request: Request, names: readonly string[]): boolean {
  const name = nameOf(hostOf(request));
  return (
    name !== undefined && (isIP(name) !== 0 || name === "localhost" || names.some((own) => own.toLowerCase() === name))
  );
}

/** Whether a request comes from a page of this server, or from no page at all. */
export function isOwnOrigin(request: Request): boolean {
  const site = request.headers.get("sec-fetch-site");
  if (site !== null && site !== "same-origin" && site !== "none") return false;
  const origin = request.headers.get("origin");
  if (origin === null) return true;
  // The host alone: behind a proxy that ends TLS the schemes differ.
  return /^https?:/i.test(origin) && URL.canParse(origin) && new URL(origin).host === hostOf(request).toLowerCase();
}

// ---------------------------------------------------------------------------------------------------------------------

/** HTTP/2 has no Host header, its authority is in the URL. */
function hostOf(request: Request): string {
  return request.headers.get("host") ?? new URL(request.url).host;
}

/** Without the port, and an IPv6 address without its brackets. */
function nameOf(host: string): string | undefined {
  const found = /^(?:\[([0-9a-f:.]+)\]|([^:@/?#[\]]+))(?::\d{1,5})?$/i.exec(host);
  return (found?.[1] ?? found?.[2])?.toLowerCase();
}
