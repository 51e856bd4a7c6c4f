import { RETURN_CODES } from "../../src/providers/pkcs11/return_codes.ts";
import { CALL, type Shim } from "./token.ts";

/** Random misbehaviour of a token: any return code from any call, steps of latency, session caps, resets. */

/** mulberry32 */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Codes that a token in trouble answers. A refused PIN, and bytes called bad, are findings and no trouble: others test them. */
const CODES = [
  ...Object.entries(RETURN_CODES).flatMap(([kind, codes]) =>
    ["lost", "module", "no_session", "unavailable", "unsupported"].includes(kind) ? Object.values(codes) : [],
  ),
  0x80000001,
];
const CALLS = Object.values(CALL).filter((call) => call !== CALL.generate && call !== CALL.destroy);

type Orders = Parameters<Shim["set"]>[0];

export function problem(shim: Shim, next: () => number): Orders {
  const one = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)] as T;
  const code = one(CODES);
  switch (Math.floor(next() * 6)) {
    case 0:
      return { faultCall: one(CALLS), faultCode: code, faultPpm: one([1000, 20_000, 300_000, 1_000_000]) };
    case 1:
      return { latencyUs: one([1000, 20_000, 100_000, 400_000]) };
    case 2:
      return { cap: one([1, 2, 3]), capCode: code, drops: shim.get("drops") + 1 };
    case 3:
      return { drops: shim.get("drops") + 1 };
    case 4:
      return { away: one([0x30, 0x32, 0xe0, 0x5, 0x190]), drops: shim.get("drops") + 1 };
    default:
      return { infoCode: code, loginUs: 500_000, drops: shim.get("drops") + 1 };
  }
}

export const WELL: Orders = {
  faultPpm: 0,
  faultCall: 0,
  latencyUs: 500,
  cap: 0,
  away: 0,
  infoCode: 0,
  loginUs: 0,
};
