import { setTimeout as sleep } from "node:timers/promises";
import { KekError } from "../errors/errors.ts";
import { awaited } from "../protocol/acknowledgement.ts";
import type { Phase } from "../protocol/documents.ts";
import { evictionMsOf } from "../protocol/fleet_times.ts";
import { type Member, memberName, silentForMs } from "../protocol/member.ts";
import { evictMember } from "../store/evictions.ts";
import { readRoster } from "../store/heartbeats.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import { seconds } from "../util/duration.ts";
import { ChangeTimer } from "./change_timer.ts";
import type { Context, Reporter } from "./context.ts";
import type { LeaseKeeper } from "./lease_keeper.ts";

/** What a coordinator waits for between two phases: every member that is not cleanly gone has acknowledged, or has been evicted by name. */

const POLL_MS = 50;
const POLL_SLOWLY_MS = 250;
/** A large roster takes its time to be read: between two looks so many times that is left to the members, up to a limit. */
const LEFT_TO_MEMBERS = 2;
const LONGEST_PAUSE_MS = 1000;

/** The roster as it was just read, with how long each heartbeat has been seen unchanged. */
export function watchedBy(changeTimer: ChangeTimer, roster: Member[]): Member[] {
  changeTimer.look(roster.map(({ _id, updated_at }) => [_id, updated_at.getTime()]));
  return roster.map((member) => ({ ...member, watched_ms: changeTimer.ms(member._id) }));
}

/**
 * @throws KekError `not_acknowledged` when a member beats but does not follow in time, naming it and its reason.
 * @throws KekError `cancelled`, `lease_lost`.
 */
export async function awaitAcknowledgements(
  context: Context,
  lease: LeaseKeeper,
  phase: Phase,
  reporter: Reporter,
): Promise<void> {
  const { store, config, auditor } = context;
  const { evictionMs, drainMs, leaseMs } = config.fleet;
  // A heartbeat that was written before MongoDB's clock was set back does not age until the clock has caught up.
  const changeTimer = new ChangeTimer(leaseMs / 2);
  const what = `phase ${phase}`;
  const began = performance.now();
  const deadline = began + 2 * evictionMs + drainMs;
  for (;;) {
    lease.check();
    const asked = performance.now();
    const pending = await pendingMembers(context, lease, phase, changeTimer);
    const now = performance.now();
    if (pending !== undefined) {
      reporter.waiting(
        what,
        pending.map((member) => `${memberName(member)}${why(member, config.fleet.beatMs)}`),
      );
      if (pending.length === 0) return;
      for (const member of pending) {
        const silentMs = evictionMsOf(member, config.fleet);
        if (
          silentForMs(member) > silentMs &&
          (await evictMember(store, { auditor, held: lease.held, member, silentMs }))
        ) {
          reporter.note(
            `evicted ${memberName(member)}: silent for ${seconds(silentForMs(member))}. If it wakes it joins again before it serves`,
          );
        }
      }
      if (now > deadline) throw notAcknowledged(pending, phase, now - began);
    }
    const least = now - began < 2000 ? POLL_MS : POLL_SLOWLY_MS;
    const pause = Math.max(least, Math.min(LONGEST_PAUSE_MS, LEFT_TO_MEMBERS * (now - asked)));
    await sleep(pause);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function pendingMembers(
  context: Context,
  lease: LeaseKeeper,
  phase: Phase,
  changeTimer: ChangeTimer,
): Promise<Member[] | undefined> {
  const { rotation, epoch } = lease.held;
  try {
    return awaited(watchedBy(changeTimer, await readRoster(context.store)), rotation, epoch, phase);
  } catch (thrown) {
    if (isTransient(thrown)) return undefined;
    throw thrown;
  }
}

function why(member: Member, beatMs: number): string {
  const silentMs = silentForMs(member);
  if (silentMs > 3 * beatMs) return `, silent for ${seconds(silentMs)}`;
  const problem = member.problems?.[0];
  return problem === undefined ? "" : `, ${reasonText(problem.reason)} version ${problem.version}`;
}

function reasonText(reason: "missing" | "wrong_key" | "unreadable"): string {
  return reason === "missing" ? "lacks" : reason === "wrong_key" ? "holds other bytes under" : "cannot use its key for";
}

function notAcknowledged(pending: Member[], phase: Phase, waited: number): KekError {
  const names = pending.map((member) => memberName(member) + why(member, Number.POSITIVE_INFINITY)).join("; ");
  return new KekError(
    "not_acknowledged",
    `phase ${phase} was not acknowledged within ${seconds(waited)} by: ${names}`,
    "repair or stop those processes, then run the same command again: it continues from here",
  );
}
