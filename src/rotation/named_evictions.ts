import type { FleetTimes } from "../config/config.ts";
import { evictionMsOf, type Problem, seconds } from "../fleet/readiness.ts";
import { evictIdle } from "../store/evictions.ts";
import { type Member, memberName, readRoster } from "../store/heartbeats.ts";
import type { Context } from "./context.ts";

/** `--evict=NAME`: whom an operator takes off the roster. Found before the question, taken off after the answer. */

export interface NamedEvictions {
  /** Silent for so long that they may be taken off. */
  silent: Member[];
  /** Names, or ids, that no such process has. */
  unmet: { name: string; living: Member | undefined }[];
}

/** A name may be a dead process's and its successor's: the silent ones are meant. */
export function namedEvictions(roster: Member[], names: string[], times: FleetTimes): NamedEvictions {
  const silent = new Set<Member>();
  const unmet: NamedEvictions["unmet"] = [];
  for (const name of names) {
    const named = roster.filter((member) => member._id === name || member.instance_name === name);
    const gone = named.filter((member) => member.age_ms > evictionMsOf(member, times));
    for (const member of gone) silent.add(member);
    if (gone.length === 0) unmet.push({ name, living: named[0] });
  }
  return { silent: [...silent], unmet };
}

/** Why a rotation does not start: a name that was mistyped, or a process that may still encrypt. */
export function notEvicted({ name, living }: NamedEvictions["unmet"][number], times: FleetTimes): Problem {
  if (living === undefined) {
    return {
      code: "silent",
      message: `no process is called ${name}`,
      hint: "certautopilot kek status lists the fleet",
    };
  }
  const needed = seconds(evictionMsOf(living, times));
  return {
    code: "silent",
    message: `${memberName(living)} is not evicted: its last beat was ${seconds(living.age_ms)} ago, and only a process silent for ${needed} is`,
    hint: "stop it, or wait until it has been silent that long",
  };
}

/** The same where a rotation goes on: the command is run again as it was, and its eviction may be long done. */
export function nobodyToEvict({ name, living }: NamedEvictions["unmet"][number]): string {
  if (living === undefined) return `--evict=${name}: no process of that name is there any more: leave --evict out`;
  return `--evict=${name}: ${memberName(living)} beat ${seconds(living.age_ms)} ago and stays; if another of that name was meant, it is gone already: leave --evict out`;
}

/**
 * Takes them off, each on the very beat that was seen.
 * @returns why one of them is still there: it has woken up meanwhile. One that is gone by now needs no more.
 */
export async function evictNamed({ store, auditor, config }: Context, silent: Member[]): Promise<Problem | undefined> {
  for (const member of silent) {
    if (await evictIdle(store, auditor, member, evictionMsOf(member, config.fleet))) continue;
    const living = (await readRoster(store)).find(({ _id }) => _id === member._id);
    if (living !== undefined) return notEvicted({ name: member._id, living }, config.fleet);
  }
  return undefined;
}
