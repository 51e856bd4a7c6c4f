import type { FleetTimes } from "../config/config.ts";
import type { Member } from "./member.ts";

/** Which lease and eviction time apply to a member, in milliseconds. */

/**
 * The lease that a member goes by: what it announces itself, else what whoever looks at it has. In milliseconds.
 * Protocol: "The guards". Model: may_encrypt.
 */
export function leaseMsOf(member: Member, own: FleetTimes): number {
  return member.fleet?.lease_ms ?? own.leaseMs;
}

/**
 * How long a member must have been silent to be evicted: it has surely fenced itself by then, whoever's times are right.
 * Protocol: "The guards". Model: silent.
 */
export function evictionMsOf(member: Member, own: FleetTimes): number {
  return Math.max(own.evictionMs, member.fleet?.eviction_ms ?? 0);
}
