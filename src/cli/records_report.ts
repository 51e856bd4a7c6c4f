import { saysPlaintext } from "../envelope/not_envelope.ts";
import { KekError } from "../errors/errors.ts";
import { RESTORE, WRITE_AGAIN } from "../protocol/stale_envelopes.ts";
import type { OpeningProgress } from "../rotation/progress.ts";
import type { RecordsReport } from "../rotation/verify_records.ts";
import { seconds } from "../util/duration.ts";

/** What `kek verify --records` shows. */

export function openingLine({ records, of, failed, rate, eta }: OpeningProgress): string {
  const percent = of === 0 ? 100 : Math.floor((records / of) * 100);
  const bad = failed > 0 ? `, ${failed} do not open` : "";
  const rest = eta === undefined ? "" : `, ${seconds(eta * 1000)} left`;
  return `opening: ${percent}% (${records} of ${of}${bad}), ${Math.round(rate)} records/s${rest}`;
}

export function describeRecords({
  records,
  opened,
  failed,
  bad,
  stale_envelopes,
  stale_records: named,
}: RecordsReport): string {
  const stale = stale_envelopes.reduce((sum, row) => sum + row.count, 0);
  return [
    `${opened} of ${records} envelopes open`,
    ...bad.map(({ collection, path, id, reason }) => `${collection}:${path} ${id}: ${reason}`),
    ...(bad.length < failed ? [`… and ${failed - bad.length} more that do not open`] : []),
    ...named.map(({ collection, path, id, version }) => `stray: ${collection}:${path} ${id} is at version ${version}`),
    ...(named.length < stale ? [`… and ${stale - named.length} more stale envelopes`] : []),
  ].join("\n");
}

/** @returns undefined when every envelope opens and is where it belongs. */
export function complaintOf({ failed, bad, stale_envelopes }: RecordsReport): KekError | undefined {
  if (failed > 0) return doNotOpen(failed, bad.filter(({ reason }) => saysPlaintext(reason)).length, bad.length);
  const stale = stale_envelopes.reduce((sum, row) => sum + row.count, 0);
  if (stale === 0) return undefined;
  return new KekError(
    "incomplete",
    `every envelope opens, but ${stale} of them are at a version that was left`,
    "move them: certautopilot kek rotate --to-version=N with the active version as N (kek status)",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

/** @param plaintext how many of the `named` are no envelopes at all; those that are not named may be either. */
function doNotOpen(failed: number, plaintext: number, named: number): KekError {
  const what = failed === 1 ? "1 envelope does not open" : `${failed} envelopes do not open`;
  const some = plaintext === 1 ? "1 of them is plaintext" : `${plaintext} of them are plaintext`;
  if (plaintext === failed) {
    const all =
      plaintext === 1 ? "1 value is plaintext, not an envelope" : `${plaintext} values are plaintext, not envelopes`;
    return new KekError("incomplete", all, WRITE_AGAIN);
  }
  if (plaintext === 0) return new KekError("incomplete", what, `for each: ${RESTORE}`);
  return new KekError(
    "incomplete",
    `${what}, and ${some}${named < failed ? ` (of the ${named} that are listed)` : ""}`,
    `where it is plaintext, ${WRITE_AGAIN}; for a damaged envelope, ${RESTORE}`,
  );
}
