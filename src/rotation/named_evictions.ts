import { setTimeout as sleep } from "node:timers/promises";
import type { FleetTimes } from "../config/config.ts";
import { evictionMsOf } from "../protocol/fleet_times.ts";
import { type Member, memberName, silentForMs } from "../protocol/member.ts";
import type { Problem } from "../protocol/problem.ts";
import { evictIdle } from "../store/evictions.ts";
import { readRoster } from "../store/heartbeats.ts";
import type { Store } from "../store/store.ts";
import { seconds } from "../util/duration.ts";
import { watchedBy } from "./await_acknowledgements.ts";
import { ChangeTimer } from "./change_timer.ts";
import type { Context, Reporter } from "./context.ts";

/** `--evict=NAME`: whom an operator takes off the roster. Found before the question, taken off after the answer. */

export interface NamedEvictions {
  /** Silent for so long that they may be taken off. */
  silent: Member[];
  /** Names, or ids, that no such process has. */
  unmet: { name: string; living: Member | undefined }[];
}

const POLL_MS = 200;

/**
 * The roster, after a watch over the named members whose last heartbeat lies in the future: MongoDB's clock was set back after
 * it, and cannot tell whether they live. A member that sends no other for the eviction time, by this host's monotonic clock, is
 * silent.
 * @throws KekError as `readRoster`.
 */
export async function watchNamed(
  { store, config: { fleet } }: Context,
  names: string[],
  reporter: Pick<Reporter, "note">,
): Promise<Member[]> {
  const changeTimer = new ChangeTimer(fleet.leaseMs / 2);
  const heartbeats = new Map<string, number>();
  for (let first = true; ; first = false) {
    const roster = watchedBy(changeTimer, await readRoster(store));
    for (const member of first ? roster : []) {
      if (member.ahead_ms === undefined || !names.some((name) => isNamed(member, name))) continue;
      heartbeats.set(member._id, member.updated_at.getTime());
      reporter.note(
        `the last heartbeat of ${memberName(member)} lies ${seconds(member.ahead_ms)} in the future, because MongoDB's clock was set back: watching it for ${seconds(evictionMsOf(member, fleet))}; it can be evicted if it sends no other`,
      );
    }
    const undecided = roster.filter(
      (member) => heartbeats.get(member._id) === member.updated_at.getTime() && !isSilent(member, fleet),
    );
    if (undecided.length === 0) return roster;
    await sleep(POLL_MS);
  }
}

/** A name may be a dead process's and its successor's: the silent ones are meant. */
export function namedEvictions(roster: Member[], names: string[], times: FleetTimes): NamedEvictions {
  const silent = new Set<Member>();
  const unmet: NamedEvictions["unmet"] = [];
  for (const name of names) {
    const named = roster.filter((member) => isNamed(member, name));
    const gone = named.filter((member) => isSilent(member, times));
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
    message: `${memberName(living)} is not evicted: its last heartbeat was ${seconds(living.age_ms)} ago, and only a process silent for ${needed} is`,
    hint: "stop it, or wait until it has been silent that long",
  };
}

/** The same where a rotation continues: the command is run again as it was, and its eviction may be long done. */
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
    const living = await stillThere(store, member);
    if (living !== undefined) return notEvicted({ name: member._id, living }, config.fleet);
  }
  return undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * The member as it is now. A removal by another command that has just committed may not show yet in a read with majority: as long
 * as the very heartbeat that was seen is there, it is read again for a while.
 */
async function stillThere(store: Store, seen: Member): Promise<Member | undefined> {
  const began = performance.now();
  for (;;) {
    const living = (await readRoster(store)).find(({ _id }) => _id === seen._id);
    if (living?.updated_at.getTime() !== seen.updated_at.getTime()) return living;
    if (performance.now() - began > COMMIT_LIMIT_MS) return living;
    await sleep(POLL_MS);
  }
}

/** A majority confirms a commit within this time, or MongoDB is in trouble. */
const COMMIT_LIMIT_MS = 2000;

function isNamed({ _id, instance_name }: Member, name: string): boolean {
  return _id === name || instance_name === name;
}

function isSilent(member: Member, times: FleetTimes): boolean {
  return silentForMs(member) > evictionMsOf(member, times);
}
