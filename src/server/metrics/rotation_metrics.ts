import type { RotationView, StatusView } from "../../status/status_view.ts";
import { labelled, type Metric, secondsOf, single } from "./metric.ts";

/** The open rotation, and the one that ended last. Records that failed are counted, never named: labels stay few. Pure. */
export const ROTATION_METRICS: Metric<StatusView>[] = [
  single(
    "certautopilot_rotation_open",
    "1 while processes follow a rotation, running or cancelled half way.",
    ({ rotation }) => rotation !== null,
  ),
  single("certautopilot_rotation_phase", "0 steady, 1 announce, 2 re-wrap, 3 settle.", ({ phase }) => phase),
  labelled(
    "certautopilot_rotation_info",
    "The open rotation: its number, the KEK versions it leads from and to, running or cancelled; 1.",
    ["rotation", "from", "to", "state"],
    ({ rotation: open }) => (open === null ? [] : [[[open.rotation, open.from, open.to, open.state], 1]]),
  ),
  ofOpen("certautopilot_rotation_phase_seconds", "Time since the present phase began.", (open, at) => {
    const began = open.phase_times[String(open.phase)];
    return began === undefined ? undefined : Math.max(0, secondsOf(at) - secondsOf(began));
  }),
  ofOpen(
    "certautopilot_rotation_led",
    "1 while a command holds the open rotation's lease; at 0 it waits for an operator.",
    ({ state, coordinator, lease_ran_out_ms: late }) => state === "running" && coordinator !== null && late === null,
  ),
  ofOpen(
    "certautopilot_rotation_lease_overdue_seconds",
    "How long ago the lease of the running rotation ran out; 0 while it holds.",
    ({ lease_ran_out_ms: late }) => (late ?? 0) / 1000,
  ),
  labelled(
    "certautopilot_rotation_records",
    "Records of the open rotation by field: done, remaining, failed.",
    ["field", "outcome"],
    ({ rotation }) =>
      (rotation?.fields ?? []).flatMap(({ field, ...counts }) =>
        (["done", "remaining", "failed"] as const).map((outcome): [string[], number] => [
          [field, outcome],
          counts[outcome],
        ]),
      ),
  ),
  ofOpen(
    "certautopilot_rotation_records_per_second",
    "Records that the open rotation moved in a second, lately; 0 while nothing moves.",
    ({ rate }) => rate ?? 0,
  ),
  ofOpen(
    "certautopilot_rotation_eta_seconds",
    "Time that the rest will take at this rate; absent while it cannot be told.",
    ({ eta_ms: ms }) => (ms === null ? undefined : ms / 1000),
  ),
  ofOpen(
    "certautopilot_rotation_awaited_processes",
    "Processes that have not acknowledged the present phase.",
    ({ awaited }) => awaited.length,
  ),
  ofOpen(
    "certautopilot_rotation_acknowledged_processes",
    "Processes that have acknowledged the present phase.",
    ({ acknowledged }) => acknowledged.length,
  ),
  labelled(
    "certautopilot_last_rotation_info",
    "The rotation that ended last, and how: completed, reverted or cancelled; 1.",
    ["rotation", "from", "to", "outcome"],
    ({ history: [last] }) => (last === undefined ? [] : [[[last.rotation, last.from, last.to, last.state], 1]]),
  ),
  single(
    "certautopilot_last_rotation_duration_seconds",
    "How long the rotation that ended last took.",
    ({ history: [last] }) => (last === undefined ? undefined : last.duration_ms / 1000),
  ),
  single(
    "certautopilot_last_rotation_ended_timestamp_seconds",
    "When the rotation that ended last did so.",
    ({ history: [last] }) => (last?.ended_at == null ? undefined : secondsOf(last.ended_at)),
  ),
];

// ---------------------------------------------------------------------------------------------------------------------

/** Absent while no rotation is open. */
function ofOpen(
  name: string,
  help: string,
  value: (open: RotationView, at: string) => number | boolean | undefined,
): Metric<StatusView> {
  return single(name, help, ({ rotation, at }) => (rotation === null ? undefined : value(rotation, at)));
}
