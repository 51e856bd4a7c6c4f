import type { HeartbeatDoc } from "./documents.ts";

/** A member of the fleet: a process, as its heartbeat describes it. */

/** A heartbeat with its age by the server's clock, in milliseconds. */
export interface Member extends HeartbeatDoc {
  /** Never negative. */
  age_ms: number;
  /** How far it lies in the future: MongoDB's clock was set back after it. */
  ahead_ms?: number;
  /** How long the reader has seen this very heartbeat, by its own monotonic clock; where it watches. */
  watched_ms?: number;
}

/**
 * How long a member has been silent, by whichever clock says more: MongoDB's may have been set back.
 * Protocol: "The guards". Model: silent.
 */
export function silentForMs({ age_ms, watched_ms = 0 }: Member): number {
  return Math.max(age_ms, watched_ms);
}

/**
 * How a member is named to people.
 * Protocol: "The life of one rotation". Model: left out.
 */
export function memberName(member: Pick<HeartbeatDoc, "instance_name" | "role" | "host" | "pid">): string {
  return `${member.instance_name} (${member.role}, ${member.host}, pid ${member.pid})`;
}
