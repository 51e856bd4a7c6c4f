import { acknowledges } from "../protocol/acknowledgement.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { type Member, memberName } from "../protocol/member.ts";
import { nextSteps } from "../protocol/next_steps.ts";
import { isOpen } from "../protocol/phases.ts";
import { isLed } from "./fleet_problems.ts";
import { rates, recentRate } from "./rewrap_rate.ts";
import type { RotationView } from "./status_view.ts";

/** A rotation's document as people see it: pure. @param roster for the open one; nobody is awaited by others. */
export function rotationView(doc: RotationDoc, now: Date, roster: Member[] = []): RotationView {
  const sum = (key: "done" | "remaining" | "failed") => doc.fields.reduce((total, field) => total + field[key], 0);
  const pace = doc.pace ?? [];
  const led = isLed(doc, now);
  const remaining = sum("remaining");
  const rate = led ? recentRate(pace, now) : null;
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
    duration_ms: Math.max(0, endOf(doc, now).getTime() - doc.started_at.getTime()),
    phase_times: Object.fromEntries(Object.entries(doc.phase_times).map(([phase, at]) => [phase, at.toISOString()])),
    coordinator: doc.lease?.owner ?? null,
    led,
    lease_ran_out_ms: ranOut(doc, now),
    fields: doc.fields.map(({ field, done, remaining, failed }) => ({ field, done, remaining, failed })),
    done: sum("done"),
    remaining,
    failed_count: sum("failed"),
    failed: doc.failed,
    rate,
    eta_ms: rate === null || rate === 0 || remaining === 0 ? null : Math.round((remaining / rate) * 1000),
    pace: rates(pace).map((point) => ({ ...point, at: point.at.toISOString() })),
    acknowledged: roster.filter((member) => follows(doc, member)).map(memberName),
    // One that has stopped waits for nobody.
    awaited: roster.filter((member) => doc.state === "running" && !follows(doc, member)).map(memberName),
    fenced: doc.fence.versions,
    next_steps: isOpen(doc) ? nextSteps(doc, led) : [],
    unfenced: doc.fence.unfenced ?? [],
    reverses: doc.reverses ?? null,
    ...(doc.repairs === true ? { repairs: true as const } : {}),
  };
}

export function follows({ _id, epoch, phase }: RotationDoc, { acked }: Pick<Member, "acked">): boolean {
  return acknowledges(acked, _id, epoch, phase);
}

// ---------------------------------------------------------------------------------------------------------------------

/** An ended one that does not say when, as no release left it, has lasted until the last thing that is known of it. */
function endOf(doc: RotationDoc, now: Date): Date {
  if (isOpen(doc)) return now;
  const known = [doc.started_at, ...Object.values(doc.phase_times)].map((at) => at.getTime());
  return doc.ended_at ?? new Date(Math.max(...known));
}

function ranOut({ state, lease }: RotationDoc, now: Date): number | null {
  if (state !== "running" || lease === null || lease.owner === null) return null;
  const late = now.getTime() - lease.expires_at.getTime();
  return late > 0 ? late : null;
}
