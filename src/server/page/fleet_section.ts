import { html } from "hono/html";
import type { ProcessView, StatusView } from "../../status/status_view.ts";
import { span } from "./format.ts";
import { type Markup, table, tag } from "./markup.ts";
import { processHealthOf } from "./process_health.ts";

/** Problems that are spelt out above the table; its rows mark them all. */
const MOST_PROBLEMS = 20;

/** Each process, and how it differs from the install or from the others. */
export function fleetSection(view: StatusView): Markup {
  const processes = [...view.processes].sort(byUrgency(view));
  const columns = [
    { title: "Process" },
    { title: "Status" },
    { title: "Role" },
    { title: "Host:pid" },
    { title: "Loaded" },
    { title: "Declares" },
    { title: "Writes" },
    { title: "Acknowledged" },
    { title: "Last beat" },
  ];
  const rows = processes.map((process) => row(process, view));
  return html`<section id="fleet" aria-labelledby="fleet-h"><h2 id="fleet-h">Fleet</h2>${problems(processes)}${
    rows.length === 0
      ? html`<p>No process is in the fleet.</p>`
      : table("fleet", "Processes that encrypt or decrypt", columns, rows)
  }</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Those to look at come first. */
function byUrgency(view: StatusView): (one: ProcessView, other: ProcessView) => number {
  const urgency = (process: ProcessView) =>
    processHealthOf(process, view).level === "bad" ? 2 : process.acknowledged === false ? 1 : 0;
  return (one, other) => urgency(other) - urgency(one) || one.name.localeCompare(other.name) || one.pid - other.pid;
}

function problems(processes: ProcessView[]): Markup | string {
  const bad = processes.filter((process) => process.problems.length > 0);
  const list = bad.flatMap((process) => process.problems);
  if (list.length === 0) return "";
  const rest = list.length - MOST_PROBLEMS;
  const title = bad.length === 1 ? "1 process is" : `${bad.length} processes are`;
  return html`<details id="drift"><summary id="drift-s">${title} not as the install has it</summary><ul class="problems">${list
    .slice(0, MOST_PROBLEMS)
    .map(({ message, hint }) => html`<li>${message}<span class="hint">${hint}</span></li>`)}${
    rest > 0 ? html`<li>and ${rest} more, marked below</li>` : ""
  }</ul></details>`;
}

function row(process: ProcessView, view: StatusView): Markup {
  const { phase, write_version: write, rotation } = view;
  // During a rotation both of its versions are in order.
  const expected = rotation === null ? [write] : [rotation.from, rotation.to];
  const { level, word } = processHealthOf(process, view);
  const off = (version: number | null) =>
    version !== null && !expected.includes(version) ? html` class="${level}"` : "";
  return html`<tr${level === "bad" ? html` class="off"` : ""}><th scope="row">${process.name}</th><td>${tag(level, word)}</td><td>${
    process.role
  }</td><td>${process.host}:${process.pid}</td><td>${process.loaded.map(named).join(" ") || "–"}</td><td${off(process.current_version)}>${named(
    process.current_version,
  )}</td><td${off(process.write_version)}>${named(process.write_version)}</td><td>${
    process.acknowledged === false
      ? tag("due", "awaited")
      : process.acked === null
        ? "–"
        : `phase ${rotation === null ? phase : process.acked.phase}`
  }</td><td>${beat(process)}</td></tr>`;
}

function named(version: number | null): string {
  return version === null ? "–" : `v${version}`;
}

/** Rounded while all is well, so that a calm fleet is a calm page: what has not changed is not sent again. */
function beat({ last_beat_ms: ms, silent }: ProcessView): string {
  return silent || ms >= 10_000 ? `${span(ms)} ago` : "under 10 s ago";
}
