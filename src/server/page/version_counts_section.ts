import { html } from "hono/html";
import type { VersionCount } from "../../protocol/version_count.ts";
import type { StatusView } from "../../status/status_view.ts";
import { figure, percent, span } from "./format.ts";
import type { Markup } from "./markup.ts";

/** Where the records are: a bar a field, a piece of it a version. */
export function versionCountsSection(view: StatusView): Markup {
  const fields = Map.groupBy(view.version_counts, ({ field }) => field);
  return html`<section id="version-counts" aria-labelledby="version-counts-h"><h2 id="version-counts-h">Records by version</h2>${
    fields.size === 0
      ? html`<p>No field holds an envelope yet.</p>`
      : html`<p class="sub">Envelopes by field and version, counted from the index${age(view)}.</p><ul class="version-counts">${[
          ...fields,
        ].map(([field, rows]) => bar(field, rows, view))}</ul>`
  }</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

/** A long count is not repeated each second. */
function age({ at, version_counts_at: counted }: StatusView): string {
  const ms = Date.parse(at) - Date.parse(counted);
  return ms < 5000 ? "" : ` ${span(ms)} ago`;
}

function bar(field: string, rows: VersionCount[], view: StatusView): Markup {
  const whole = rows.reduce((total, { count }) => total + count, 0);
  let from = 0;
  const pieces = rows.map((row) => {
    const width = whole === 0 ? 0 : (row.count / whole) * 100;
    const piece = { ...row, kind: kindOf(row.version, view), x: from, width };
    from += width;
    return piece;
  });
  return html`<li><span class="field">${field}</span> <span class="n">${figure(whole)}</span><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">${pieces.map(
    ({ kind, x, width }) => html`<rect class="${kind}" x="${x.toFixed(2)}" width="${width.toFixed(2)}" height="10"/>`,
  )}</svg><span class="legend">${pieces.map(
    ({ kind, version, count }) =>
      html`<span><i class="${kind}"></i>${label(version)} ${figure(count)} (${percent(count, whole)})${
        kind === "stale-envelope" ? html` <strong class="bad">stale</strong>` : ""
      }</span>`,
  )}</span></li>`;
}

/** `to`: where records are to be. `from`: what an open rotation leaves. Anything else is stale. */
function kindOf(version: string, { rotation, write_version: write }: StatusView): "to" | "from" | "stale-envelope" {
  if (rotation !== null && version === String(rotation.from)) return "from";
  return version === String(rotation?.to ?? write) ? "to" : "stale-envelope";
}

function label(version: string): string {
  return /^\d+$/.test(version) ? `v${version}` : version;
}
