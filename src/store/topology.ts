import type { Document, ServerDescription, TopologyDescription } from "mongodb";
import { KekError } from "../errors/errors.ts";

/** What the members of a replica set say about themselves, in words: pure. */

/**
 * Whether the member that answered can coordinate. Only a direct connection reaches one that is not the primary.
 * @param hello its answer.
 * @throws KekError `mongodb_no_replica_set`, `mongodb_refused`.
 */
export function refuseUnfit(hello: Document, hosts: string, direct: boolean): void {
  if (hello["msg"] === "isdbgrid") return;
  const set: unknown = hello["setName"];
  if (set === undefined && hello["isreplicaset"] === true) throw notInitiated(hosts);
  if (set === undefined) {
    throw new KekError(
      "mongodb_no_replica_set",
      `MongoDB at ${hosts} is not a replica set`,
      "start mongod with --replSet rs0 and run rs.initiate() once; one member is enough",
    );
  }
  // Else the driver has found the primary, and one that steps down at this moment is found again.
  if (!direct || hello["isWritablePrimary"] === true) return;
  const primary = hello["primary"] === undefined ? "which has no primary now" : `whose primary is ${hello["primary"]}`;
  const state = hello["secondary"] === true ? "a secondary" : `${NOT_READY}, a member`;
  throw new KekError(
    "mongodb_refused",
    `MongoDB at ${hosts} is ${state} of the replica set "${set}", ${primary}: directConnection keeps this program from finding it`,
    `remove directConnection from CERTAUTOPILOT_DATABASE_URI, and name the set: replicaSet=${set}`,
  );
}

/** Of a search for a primary that found none, with all members that answered: no member has a configuration. */
export function isNotInitiated({ servers }: TopologyDescription): boolean {
  const answered = [...servers.values()].filter(({ type }) => type !== "Unknown");
  return answered.length > 0 && answered.every(({ type }) => type === "RSGhost");
}

const NO_CONFIGURATION = new Error("no member has a replica set configuration");

/** Apart from other errors of its code: `install` initiates a replica set of its own host. */
export function saysNotInitiated(error: KekError | undefined): boolean {
  return error?.cause === NO_CONFIGURATION;
}

export function notInitiated(hosts: string): KekError {
  return new KekError(
    "mongodb_no_replica_set",
    `MongoDB at ${hosts} runs with --replSet, and its replica set is not initiated, or this member was removed from it`,
    "a new set: run rs.initiate() once on one member; a set that has other members: name those in CERTAUTOPILOT_DATABASE_URI, or add this one there with rs.add()",
    { cause: NO_CONFIGURATION },
  );
}

/** What each member was when the search for a primary ended. Empty where there is nothing to say. */
export function describeMembers({ servers, setName }: TopologyDescription): string {
  if (servers.size === 0)
    return setName == null ? "" : `none of them is a member of a replica set that is called "${setName}"`;
  return [...servers.values()].flatMap(describeMember).join(", ");
}

// ---------------------------------------------------------------------------------------------------------------------

const NOT_READY = "starting up, recovering or rolling back";

function describeMember({ address, type, error }: ServerDescription): string[] {
  const state = STATES[type] ?? (error === null ? undefined : "is unavailable");
  return state === undefined ? [] : [`${address} ${state}`];
}

const STATES: Record<string, string> = {
  RSPrimary: "is the primary",
  RSSecondary: "is a secondary",
  RSArbiter: "is an arbiter",
  RSOther: `is ${NOT_READY}`,
  RSGhost: "is not initiated, or was removed from its set",
};
