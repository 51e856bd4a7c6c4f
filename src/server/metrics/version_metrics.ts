import { MAX_WRAPS } from "../../protocol/wrap_limit.ts";
import type { StatusView, VersionView } from "../../status/status_view.ts";
import { labelled, type Metric, oneOf, secondsOf, single } from "./metric.ts";

/** KEK versions, the version counts and the audit chain, as MongoDB has them. Pure. */
export const VERSION_METRICS: Metric<StatusView>[] = [
  labelled(
    "certautopilot_install_info",
    "The install that this process belongs to; 1.",
    ["install_id", "provider"],
    ({ install }) => [[[install.install_id, install.provider], 1]],
  ),
  labelled(
    "certautopilot_health",
    "Health of the install. 1 for one of: ok, in_progress (a rotation runs), action_due (something must be done soon), problem (something must be done now).",
    ["level"],
    ({ health }) => oneOf(["ok", "in_progress", "action_due", "problem"], health.level),
  ),
  single(
    "certautopilot_findings",
    "What is to be done, counted; `certautopilot kek status` tells it in words.",
    ({ health }) => health.findings.length,
  ),
  single(
    "certautopilot_active_version",
    "The KEK version that new values are to be written under.",
    (view) => view.write_version,
  ),
  labelled(
    "certautopilot_version_info",
    "A KEK version and its state: staged, active, retired or destroyed; 1.",
    ["version", "state"],
    ({ versions }) => versions.map(({ version, state }) => [[version, state], 1]),
  ),
  ofVersions(
    "certautopilot_version_records",
    "Envelopes under a KEK version, at the last count.",
    ({ records }) => records,
  ),
  ofVersions(
    "certautopilot_version_wraps_total",
    "Wraps made under a KEK version, or reserved for it.",
    ({ wraps }) => wraps,
    "counter",
  ),
  ofVersions(
    "certautopilot_version_wraps_ratio",
    "Wraps made under a KEK version, of the 2^32 that one key may make; at 1 encrypt is refused.",
    ({ wraps }) => wraps / MAX_WRAPS,
  ),
  ofVersions(
    "certautopilot_version_age_seconds",
    "Time since a KEK version was first known.",
    ({ age_ms: ms }) => ms / 1000,
  ),
  ofVersions(
    "certautopilot_version_due_timestamp_seconds",
    "When policy (encryption.rotation_period) says that the active KEK version is to be rotated.",
    ({ due_at: due }) => (due === null ? undefined : secondsOf(due)),
  ),
  ofVersions(
    "certautopilot_version_overdue",
    "1 when a KEK version should have been rotated by now.",
    ({ overdue }) => overdue,
  ),
  ofVersions(
    "certautopilot_version_verified_processes",
    "Processes that have opened the canary of a KEK version.",
    ({ canary }) => canary.verified_by,
  ),
  ofVersions(
    "certautopilot_version_wrong_key_processes",
    "Processes whose key of that number is another one.",
    ({ canary }) => canary.wrong_key.length,
  ),
  labelled(
    "certautopilot_version_fenced",
    "1 when MongoDB rejects envelopes of a KEK version.",
    ["version"],
    (view) => {
      const fenced = newestRotation(view)?.fenced ?? [];
      return view.versions.map(({ version }) => [[version], fenced.includes(version)]);
    },
  ),
  single(
    "certautopilot_unfenced_collections",
    "Collections that the fence of the newest rotation could not be set on.",
    (view) => newestRotation(view)?.unfenced.length ?? 0,
  ),
  labelled(
    "certautopilot_version_counts",
    "Envelopes by field and KEK version; `other` for what is no version's number.",
    ["field", "version"],
    ({ version_counts }) => {
      const counts = new Map<string, Map<string, number>>();
      for (const { field, version, count } of version_counts) {
        const label = /^[1-9]\d*$/.test(version) ? version : "other";
        const row = counts.get(field) ?? new Map<string, number>();
        counts.set(field, row.set(label, (row.get(label) ?? 0) + count));
      }
      return [...counts].flatMap(([field, row]) =>
        [...row].map(([version, count]): [string[], number] => [[field, version], count]),
      );
    },
  ),
  single("certautopilot_version_counts_timestamp_seconds", "When the envelopes were counted.", (view) =>
    secondsOf(view.version_counts_at),
  ),
  labelled(
    "certautopilot_audit_chain",
    "How the last audit events hang together: 1 for whole, broken or unchecked (no AUDIT_SECRET here).",
    ["state"],
    ({ audit }) => oneOf(["whole", "broken", "unchecked"], audit.chain.state),
  ),
];

// ---------------------------------------------------------------------------------------------------------------------

function newestRotation({ rotation, history }: StatusView) {
  return rotation ?? history[0];
}

function ofVersions(
  name: string,
  help: string,
  value: (version: VersionView) => number | boolean | undefined,
  type: "gauge" | "counter" = "gauge",
): Metric<StatusView> {
  return labelled(
    name,
    help,
    ["version"],
    ({ versions }) =>
      versions.flatMap((version): [number[], number | boolean][] => {
        const found = value(version);
        return found === undefined ? [] : [[[version.version], found]];
      }),
    type,
  );
}
