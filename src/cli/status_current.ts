import type { ProcessView, StatusView, VersionView } from "../status/status_view.ts";
import { seconds } from "../util/duration.ts";
import type { TextLayout } from "./screen.ts";
import { day, type Row, section } from "./status_lists.ts";
import { wrapped } from "./table.ts";

/** Versions, records and processes as they are now, in words. Pure. */

const VERSIONS_SHOWN = 20;
const COUNTS_SHOWN = 30;
const PROCESSES_SHOWN = 20;

export function versionLines({ versions, write_version }: StatusView, layout: TextLayout): string[] {
  // Of many versions the newest matter.
  const rows = versions.toReversed().map((entry) => ({
    cells: [
      `${entry.version}${entry.version === write_version ? " *" : ""}`,
      entry.state,
      String(entry.records),
      `${entry.wraps} (${entry.wraps_percent}%)`,
      `${entry.canary.verified_by}/${entry.canary.of}`,
      day(entry.since),
      entry.due_at === null ? "-" : day(entry.due_at),
    ],
    tone: toneOf(entry),
  }));
  const head = ["version", "state", "records", "wraps (of 2^32)", "canary", "since", "due"];
  const notes = [
    write_version === null
      ? "no version is written under"
      : `* written under; canary: by how many processes it is verified`,
    backups(versions),
    ...versions
      .filter(({ canary }) => canary.wrong_key.length > 0)
      .map(({ version, canary }) => `KEK ${version}: other bytes in ${canary.wrong_key.slice(0, 3).join(", ")}`),
  ];
  return [
    ...section(head, rows, VERSIONS_SHOWN, layout),
    ...notes.flatMap((note) => wrapped("", note, layout.width)).map((line) => layout.paint("dim", line)),
  ];
}

export function versionCountLines({ version_counts, version_counts_at, at }: StatusView, layout: TextLayout): string[] {
  if (version_counts.length === 0) return [];
  const ofField = (field: string) =>
    version_counts.filter((row) => row.field === field).reduce((total, row) => total + row.count, 0);
  const rows = version_counts.map(({ field, version, count }) => ({
    cells: [field, version, String(count), `${Math.floor((count / ofField(field)) * 100)}%`],
  }));
  const age = Date.parse(at) - Date.parse(version_counts_at);
  const head = ["field", "version", "records", age < 1000 ? "" : `(counted ${seconds(age)} ago)`];
  return section(head, rows, COUNTS_SHOWN, layout);
}

export function processLines({ processes, drift }: StatusView, layout: TextLayout): string[] {
  if (processes.length === 0) return ["no process is in the fleet"];
  const drifting = new Set(drift.map(({ process }) => process));
  const marked = processes.map((entry) => ({ entry, marks: marksOf(entry, drifting.has(entry.id)) }));
  // Where not all are shown, those that somebody asks about are.
  const order = ({ entry, marks }: (typeof marked)[number]) => (entry.silent ? 0 : marks === "" ? 2 : 1);
  const rows: Row[] = marked
    .toSorted((one, other) => order(one) - order(other))
    .map(({ entry, marks }) => ({
      cells: [
        entry.name,
        entry.role,
        `${entry.host}:${entry.pid}`,
        entry.loaded.join(",") || "-",
        String(entry.current_version ?? "-"),
        String(entry.write_version ?? "-"),
        `${seconds(entry.last_beat_ms)} ago`,
        marks || "ok",
      ],
      tone: entry.silent ? "bad" : marks === "" ? undefined : "warn",
    }));
  const head = ["process", "role", "host:pid", "loaded", "declares", "writes", "last heartbeat", ""];
  return section(head, rows, PROCESSES_SHOWN, layout);
}

// ---------------------------------------------------------------------------------------------------------------------

function toneOf({ state, overdue, canary }: VersionView): Row["tone"] {
  if (canary.wrong_key.length > 0) return "bad";
  if (overdue) return "warn";
  return state === "retired" || state === "destroyed" ? "dim" : undefined;
}

function backups(versions: VersionView[]): string {
  const kept = versions.filter(({ state }) => state !== "destroyed");
  const told = kept.map(({ version, backup_verified_at }) =>
    backup_verified_at === null ? `KEK ${version} never` : `KEK ${version} on ${day(backup_verified_at)}`,
  );
  return `backup verified: ${told.slice(-3).join(", ") || "nothing to verify"}`;
}

function marksOf(entry: ProcessView, drifts: boolean): string {
  const marks = [
    entry.silent ? "silent" : "",
    entry.acked === null ? "joining" : entry.acknowledged === false ? "awaited" : "",
    drifts ? "drift" : "",
  ].filter((mark) => mark !== "");
  return marks.join(", ") || (entry.problems.length > 0 ? "problem" : "");
}
