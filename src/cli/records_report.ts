import { KekError } from "../errors/errors.ts";
import { seconds } from "../fleet/readiness.ts";
import type { RecordsReport } from "../rotation/verify_records.ts";
import type { OpeningProgress } from "../rotation/verify_tally.ts";

/** What `kek verify --records` shows. */

export function openingLine({ records, of, failed, rate, eta }: OpeningProgress): string {
  const percent = of === 0 ? 100 : Math.floor((records / of) * 100);
  const bad = failed > 0 ? `, ${failed} do not open` : "";
  const rest = eta === undefined ? "" : `, ${seconds(eta * 1000)} left`;
  return `opening: ${percent}% (${records} of ${of}${bad}), ${Math.round(rate)} records/s${rest}`;
}

export function describeRecords({ records, opened, failed, bad, strays, stray_records: named }: RecordsReport): string {
  const stray = strays.reduce((sum, row) => sum + row.count, 0);
  return [
    `${opened} of ${records} envelopes open`,
    ...bad.map(({ collection, path, id, reason }) => `${collection}:${path} ${id}: ${reason}`),
    ...(bad.length < failed ? [`… and ${failed - bad.length} more that do not open`] : []),
    ...named.map(({ collection, path, id, version }) => `stray: ${collection}:${path} ${id} is at version ${version}`),
    ...(named.length < stray ? [`… and ${stray - named.length} more strays`] : []),
  ].join("\n");
}

/** @returns undefined when every envelope opens and is where it belongs. */
export function complaintOf({ failed, strays }: RecordsReport): KekError | undefined {
  if (failed > 0) {
    const what = failed === 1 ? "1 envelope does not open" : `${failed} envelopes do not open`;
    return new KekError("incomplete", what, "restore these fields from a backup");
  }
  const stray = strays.reduce((sum, row) => sum + row.count, 0);
  if (stray === 0) return undefined;
  return new KekError(
    "incomplete",
    `every envelope opens, but ${stray} of them are at a version that was left`,
    "move them: certautopilot kek rotate --to-version=N with the active version as N (kek status)",
  );
}
