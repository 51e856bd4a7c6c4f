import type { ScanProgress, ScanReporter } from "../rotation/database_scan.ts";
import type { Discovery } from "../rotation/discovery.ts";
import { placeName } from "../rotation/places_text.ts";
import type { ScannedData } from "../rotation/remove.ts";
import { seconds } from "../util/duration.ts";
import type { Output } from "./output.ts";
import { progressLine } from "./progress_line.ts";
import { table } from "./table.ts";

/** What a scan of the whole database shows while it reads, and what it found. */
export function scanReporter(output: Output): ScanReporter {
  const show = progressLine(output);
  return { note: (message) => output.log.info(message), progress: (progress) => show(scanLine(progress)) };
}

export function describeDiscovery({ places, problems, scanned }: Discovery): string {
  const rows = places.map((place) => [
    placeName(place),
    place.version,
    String(place.count),
    place.registered ? "registered" : "not registered",
    place.sealed_for ?? "",
  ]);
  const found =
    rows.length === 0
      ? "no envelope in any collection"
      : table(["place", "version", "envelopes", "", "sealed for"], rows);
  const listed = problems.map((problem) => `problem: ${problem.message}\n   hint: ${problem.hint}`);
  const outcome =
    problems.length === 0
      ? "every envelope is in a registered field"
      : `${problems.length} problem${problems.length === 1 ? "" : "s"} with envelopes in the database`;
  return [found, "", readText(scanned), ...listed, outcome].join("\n");
}

/** What was read, and how fast. */
export function readText({ collections, records, bytes, seconds }: ScannedData): string {
  const rate = seconds > 0 ? ` (${size(bytes / seconds)}/s)` : "";
  return `read ${records} records in ${collections} collections, ${size(bytes)} in ${seconds.toFixed(1)} s${rate}`;
}

/** Bytes in words: decimal units, as disks and networks are measured. */
export function size(bytes: number): string {
  const UNITS = ["B", "kB", "MB", "GB", "TB"];
  const unit = bytes < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(2)} ${UNITS[unit]}`;
}

// ---------------------------------------------------------------------------------------------------------------------

function scanLine({ bytes, of, records, rate, eta }: ScanProgress): string {
  const percent = of === 0 ? 100 : Math.floor((bytes / of) * 100);
  const rest = eta === undefined ? "" : `, ${seconds(eta * 1000)} left`;
  return `reading: ${percent}% (${size(bytes)} of ${size(of)}, ${records} records), ${size(rate)}/s${rest}`;
}
