import { html } from "hono/html";
import type { StatusView, VersionView } from "../../status/status_view.ts";
import { day, figure, moment, span } from "./format.ts";
import { type Markup, table, tag } from "./markup.ts";

const STATE = { staged: "busy", active: "ok", retired: "quiet", destroyed: "quiet" } as const;

export function versionsSection(view: StatusView): Markup {
  const columns = [
    { title: "Version" },
    { title: "State" },
    { title: "Canary" },
    { title: "Records", figures: true as const },
    { title: "Wraps of 2³²", figures: true as const },
    { title: "Age" },
    { title: "Rotation due" },
    { title: "Backup verified" },
  ];
  // The newest is of most interest.
  const rows = [...view.versions].reverse().map((version) => row(version, view));
  return html`<section id="versions" aria-labelledby="versions-h"><h2 id="versions-h">Versions</h2>${
    rows.length === 0
      ? html`<p>No version is known yet.</p>`
      : table("versions", "KEK versions of this install", columns, rows)
  }</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

function row(version: VersionView, view: StatusView): Markup {
  return html`<tr><th scope="row">v${version.version}</th><td>${tag(STATE[version.state], version.state)} <small>since ${moment(version.since)}</small></td><td>${canary(version, view)}</td><td class="n">${figure(version.records)}</td><td class="n">${figure(version.wraps)} <small>${version.wraps_percent}%</small></td><td>${span(
    version.age_ms,
  )}</td><td>${due(version, view)}</td><td>${
    version.backup_verified_at === null
      ? version.state === "destroyed"
        ? "–"
        : "never"
      : moment(version.backup_verified_at)
  }</td></tr>`;
}

function canary(
  { version, canary: { verified_by: verified, of, wrong_key: wrong }, state }: VersionView,
  { rotation }: StatusView,
): Markup | string {
  if (wrong.length > 0) return html`${tag("bad", "wrong key")} <small>in ${wrong.slice(0, 3).join(", ")}</small>`;
  if (state === "destroyed") return "–";
  const text = `verified by ${verified} of ${of}`;
  // A version that is left, or being left for good, needs nobody's proof any more.
  if (state === "retired" || (rotation?.phase === 3 && rotation.from === version)) return text;
  return tag(verified === of && of > 0 ? "ok" : "due", text);
}

function due({ due_at: at, overdue }: VersionView, view: StatusView): Markup | string {
  if (at === null) return "–";
  if (overdue) return html`${tag("due", "overdue")} <small>since ${day(at)}</small>`;
  return html`${day(at)} <small>in ${span(Date.parse(at) - Date.parse(view.at))}</small>`;
}
