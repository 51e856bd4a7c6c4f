import { KekError } from "../errors/errors.ts";
import { anyOf, type ExportReport } from "../transfer/export.ts";
import type { ImportReport } from "../transfer/import.ts";
import { figuresOf, type TransferProgress, type TransferReporter } from "../transfer/reporter.ts";
import type { Output } from "./output.ts";
import { progressLine } from "./progress_line.ts";
import { table } from "./table.ts";

/** What `export` and `import` show. */

export function transferReporter(output: Output): TransferReporter {
  const show = progressLine(output);
  return {
    note: (message) => output.log.info(message),
    warn: (message) => output.log.warn(message),
    progress: (progress) => show(progressText(progress)),
  };
}

export function describeExport(report: ExportReport): string {
  const { file, failed, bad, indexes } = report;
  return [
    ...bad.map(({ collection, id, reason }) => `${collection} ${id}: ${reason}`),
    ...(bad.length < failed ? [`… and ${failed - bad.length} more that do not open`] : []),
    ...(file === undefined
      ? []
      : [
          counted(report),
          ...(failed === 0 ? [] : [`left out: ${recordsText(failed)} that cannot be opened`]),
          ...changesOf(report),
          ...indexes.map(({ collection, names }) => `not in it: indexes of ${collection}: ${names.join(", ")}`),
          `${file} holds ${recordsText(figuresOf(report.contents).records)}`,
        ]),
  ].join("\n");
}

export function exportData({ contents, changes, file, ...rest }: ExportReport) {
  return {
    exported: file !== undefined,
    file: file ?? null,
    ...rest,
    ...figuresOf(contents),
    changes: changes ?? null,
  };
}

/** @returns undefined when there is an archive. */
export function complaintOf({ file, failed, changes }: ExportReport): KekError | undefined {
  if (file !== undefined) return undefined;
  if (changes === undefined) {
    return new KekError(
      "incomplete",
      `${recordsText(failed)} cannot be opened, so no archive was written`,
      "repair or restore these records; or leave them out, named as above, with --skip-broken",
    );
  }
  const { changed, added, removed } = changes;
  return new KekError(
    "incomplete",
    `records were written while they were read (${changed} changed, ${added} new, ${removed} removed), so no archive was written`,
    "stop what writes (certautopilot kek status names the processes) and export again; for a trial, --allow-changes keeps the archive",
  );
}

export function describeImport(report: ImportReport): string {
  const { contents, there_before, left_out, from_install } = report;
  return [
    counted(report),
    ...(there_before === 0 ? [] : [`${recordsText(there_before)} had been brought by a run that was interrupted`]),
    ...(left_out === 0 ? [] : [`${recordsText(left_out)} had been left out by the export: they did not open there`]),
    `here from install ${from_install}: ${recordsText(figuresOf(contents).records)}, read back, opened, and the same as in the archive`,
  ].join("\n");
}

export function importData({ contents, ...rest }: ImportReport) {
  return { imported: true, ...rest, ...figuresOf(contents) };
}

// ---------------------------------------------------------------------------------------------------------------------

function progressText({ doing, done, of }: TransferProgress): string {
  return done === of ? `${doing}: ${done} records` : `${doing}: ${Math.floor((done / of) * 100)}% (${done} of ${of})`;
}

function counted({ contents }: Pick<ExportReport, "contents">): string {
  const { collections, fields } = figuresOf(contents);
  const rows = [
    ...collections.map(({ collection, records, digest }) => [collection, `${records} records`, digest.slice(0, 16)]),
    ...fields.map(({ field, secrets, digest }) => [field, `${secrets} secrets`, digest.slice(0, 16)]),
  ];
  return `${table(["", "holds", "digest"], rows)}\n`;
}

function changesOf({ changes }: ExportReport): string[] {
  if (changes === undefined || !anyOf(changes)) return [];
  const { changed, added, removed } = changes;
  return [`written meanwhile, and not in it: ${changed} changed, ${added} new, ${removed} removed`];
}

function recordsText(count: number): string {
  return count === 1 ? "1 record" : `${count} records`;
}
