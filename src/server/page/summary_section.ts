import { html } from "hono/html";
import type { StatusView } from "../../status/status_view.ts";
import { figure, span } from "./format.ts";
import type { Markup } from "./markup.ts";
import { processHealthOf } from "./process_health.ts";

const PHASE = { 0: "steady", 1: "announce", 2: "re-wrap", 3: "settle" };

/** The few figures that are asked for most. */
export function summarySection(view: StatusView): Markup {
  const { processes, versions } = view;
  const sound = processes.filter((process) => processHealthOf(process, view).level !== "bad").length;
  const records = view.version_counts.reduce((total, row) => total + row.count, 0);
  const active = versions.find(({ state }) => state === "active");
  const fields = new Set(view.version_counts.map(({ field }) => field)).size;
  const facts: [string, string | Markup, string][] = [
    [
      "Written under",
      view.write_version === null ? "no version" : `v${view.write_version}`,
      "KEK version of new values",
    ],
    ["Phase", `${view.phase} ${PHASE[view.phase]}`, view.rotation === null ? "no rotation is open" : "of 3"],
    ["Processes", `${sound} of ${processes.length}`, "beat and follow the install"],
    ["Records", figure(records), fields === 1 ? "in 1 field" : `in ${fields} fields`],
    [
      "Next rotation",
      dueIn(view, active?.due_at ?? null),
      active?.due_at == null ? "by policy" : `due ${active.due_at.slice(0, 10)}`,
    ],
  ];
  return html`<section id="glance" aria-label="At a glance"><dl>${facts.map(
    ([name, value, note]) => html`<div><dt>${name}</dt><dd>${value}<small>${note}</small></dd></div>`,
  )}</dl></section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

function dueIn(view: StatusView, due: string | null): string {
  if (due === null) return "–";
  const left = Date.parse(due) - Date.parse(view.at);
  return left < 0 ? "overdue" : `in ${span(left)}`;
}
