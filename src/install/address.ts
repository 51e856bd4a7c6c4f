/** Where something listens: `127.0.0.1:8181`, `[::1]:8181`. Pure. */
export interface Address {
  /** Without the brackets of IPv6. */
  host: string;
  port: number;
}

export function addressOf(text: string): Address {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
}
