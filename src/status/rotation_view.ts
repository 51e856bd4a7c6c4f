import type { RotationDoc } from "../store/documents.ts";
import { type Member, memberName } from "../store/heartbeats.ts";
import { rates, recentRate } from "./pace.ts";
import type { RotationView } from "./status_view.ts";

/** A rotation's document as people see it: pure. @param awaitedOf the roster, for the open one; nobody is awaited by others. */
export function rotationView(doc: RotationDoc, now: Date, awaitedOf: Member[] = []): RotationView {
  const sum = (key: "done" | "remaining" | "failed") => doc.fields.reduce((total, field) => total + field[key], 0);
  const pace = doc.pace ?? [];
  const remaining = sum("remaining");
  const rate = doc.state === "running" ? recentRate(pace, now) : null;
  const [acknowledged, awaited] = [true, false].map((done) =>
    awaitedOf.filter((member) => isAwaited(member, doc) !== done).map(memberName),
  );
  return {
    rotation: doc._id,
    from: doc.from,
    to: doc.to,
    phase: doc.phase,
    state: doc.state,
    epoch: doc.epoch,
    started_at: doc.started_at.toISOString(),
    started_by: doc.started_by,
    ended_at: doc.ended_at?.toISOString() ?? null,
    duration_ms: Math.max(0, (doc.ended_at ?? now).getTime() - doc.started_at.getTime()),
    phase_times: Object.fromEntries(Object.entries(doc.phase_times).map(([phase, at]) => [phase, at.toISOString()])),
    coordinator: doc.lease?.owner ?? null,
    lease_ran_out_ms: ranOut(doc, now),
    fields: doc.fields,
    done: sum("done"),
    remaining,
    failed_count: sum("failed"),
    failed: doc.failed,
    rate,
    eta_ms: rate === null || rate === 0 || remaining === 0 ? null : Math.round((remaining / rate) * 1000),
    pace: rates(pace).map((point) => ({ ...point, at: point.at.toISOString() })),
    acknowledged: acknowledged ?? [],
    awaited: awaited ?? [],
    fenced: doc.fence.versions,
    reverses: doc.reverses ?? null,
    ...(doc.mends === true ? { mends: true as const } : {}),
  };
}

/** Whether the coordinator waits for a member's acknowledgement. Nobody is waited for by a rotation that has stopped. */
export function isAwaited(
  { acked }: Pick<Member, "acked">,
  { epoch, state }: Pick<RotationDoc, "epoch" | "state">,
): boolean {
  return state === "running" && acked?.epoch !== epoch;
}

// ---------------------------------------------------------------------------------------------------------------------

function ranOut({ state, lease }: RotationDoc, now: Date): number | null {
  if (state !== "running" || lease === null || lease.owner === null) return null;
  const late = now.getTime() - lease.expires_at.getTime();
  return late > 0 ? late : null;
}
