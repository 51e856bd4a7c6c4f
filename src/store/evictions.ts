import type { AuditData } from "../audit/chain.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { type Member, memberName, silentForMs } from "../protocol/member.ts";
import { type Auditor, audited } from "./audit_log.ts";
import { removeSilent } from "./heartbeats.ts";
import { type Held, rotations, stillHeld } from "./rotations.ts";
import type { Store } from "./store.ts";

/** Silent members are taken off the roster, by name and with an audit event. */

/**
 * Evicts a silent member: on the very beat that was seen, and with the lease still held. Writing to the rotation in the
 * same transaction makes a takeover at that moment conflict, so a coordinator that woke late evicts nobody.
 */
export async function evictMember(
  store: Store,
  { auditor, held, member, silentMs }: { auditor: Auditor; held: Held; member: Member; silentMs: number },
): Promise<boolean> {
  const evicted = await audited(store, auditor, async (session) => {
    const mine = await rotations(store).updateOne(stillHeld(held), { $inc: { evictions: 1 } } as never, { session });
    if (mine.matchedCount === 0 || !(await removeSilent(store, session, member, silentMs))) return undefined;
    if (import.meta.crashPoints) crashPoint("member.evicted");
    return [{ event: "process.evicted", data: evictionData(member, held.rotation), result: true }];
  });
  return evicted !== undefined;
}

/** Evicts a silent member while no rotation is open, at an operator's word. */
export async function evictIdle(store: Store, auditor: Auditor, member: Member, silentMs: number): Promise<boolean> {
  const evicted = await audited(store, auditor, async (session) => {
    if (!(await removeSilent(store, session, member, silentMs))) return undefined;
    return [{ event: "process.evicted", data: evictionData(member, null), result: true }];
  });
  return evicted !== undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

function evictionData(member: Member, rotation: number | null): AuditData {
  return { process: member._id, name: memberName(member), silent_ms: Math.round(silentForMs(member)), rotation };
}
