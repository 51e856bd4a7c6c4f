import type { ProcessView, StatusView } from "../../status/status_view.ts";
import { labelled, type Metric } from "./metric.ts";

const PLACE = ["name", "role", "host"] as const;

/**
 * The fleet's processes, by name, role and host: ids and pids are new at each start, and would make series without end.
 * Processes that share all three are counted together. Pure.
 */
export const FLEET_METRICS: Metric<StatusView>[] = [
  byPlace("certautopilot_fleet_processes", "Processes in the roster.", (processes) => processes.length),
  byPlace("certautopilot_fleet_silent_processes", "Processes silent for longer than their lease.", (processes) =>
    count(processes, ({ silent }) => silent),
  ),
  byPlace(
    "certautopilot_fleet_last_heartbeat_age_seconds",
    "Time since the last heartbeat, of the one whose is longest ago.",
    (processes) => Math.max(...processes.map((process) => process.last_beat_ms)) / 1000,
  ),
  byPlace("certautopilot_fleet_problems", "What is wrong with them: silence, missing keys, drift.", (processes) =>
    processes.reduce((total, { problems }) => total + problems.length, 0),
  ),
  byPlace(
    "certautopilot_fleet_drift",
    "Declared or write versions that are not what the state says.",
    (processes, { drift }) => drift.filter(({ process }) => processes.some(({ id }) => id === process)).length,
  ),
  byVersion("certautopilot_fleet_loaded_processes", "Processes that hold a KEK version.", ({ loaded }) => loaded),
  byVersion(
    "certautopilot_fleet_writing_processes",
    "Processes that write under a KEK version.",
    ({ write_version: version }) => (version === null ? [] : [version]),
  ),
  byVersion(
    "certautopilot_fleet_declaring_processes",
    "Processes that declare a KEK version as the current one.",
    ({ current_version: version }) => (version === null ? [] : [version]),
  ),
];

// ---------------------------------------------------------------------------------------------------------------------

function placed(view: StatusView): [place: string[], processes: ProcessView[]][] {
  const groups = new Map<string, ProcessView[]>();
  for (const process of view.processes) {
    const key = JSON.stringify([process.name, process.role, process.host]);
    groups.set(key, [...(groups.get(key) ?? []), process]);
  }
  return [...groups].map(([key, processes]) => [JSON.parse(key), processes]);
}

function byPlace(
  name: string,
  help: string,
  value: (processes: ProcessView[], view: StatusView) => number,
): Metric<StatusView> {
  return labelled(name, help, PLACE, (view) =>
    placed(view).map(([place, processes]) => [place, value(processes, view)]),
  );
}

function byVersion(name: string, help: string, versionsOf: (process: ProcessView) => number[]): Metric<StatusView> {
  return labelled(name, help, [...PLACE, "version"], (view) =>
    placed(view).flatMap(([place, processes]) =>
      [...new Set(processes.flatMap(versionsOf))].map((version): [string[], number] => [
        [...place, String(version)],
        count(processes, (process) => versionsOf(process).includes(version)),
      ]),
    ),
  );
}

function count(processes: ProcessView[], holds: (process: ProcessView) => boolean): number {
  return processes.filter(holds).length;
}
