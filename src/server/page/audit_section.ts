import { html } from "hono/html";
import type { AuditView, StatusView } from "../../status/status_view.ts";
import { moment } from "./format.ts";
import { type Markup, table, tag } from "./markup.ts";

/** The last events, and how they hang together. */
export function auditSection({ audit }: StatusView): Markup {
  const columns = [{ title: "Seq" }, { title: "Event" }, { title: "Data" }, { title: "Actor" }, { title: "When" }];
  const rows = audit.events.map(
    ({ seq, at, actor, event, data }) =>
      html`<tr><th scope="row">${seq}</th><td>${event}</td><td class="data"><code>${short(data)}</code></td><td>${actor}</td><td>${moment(at)}</td></tr>`,
  );
  return html`<section id="audit" aria-labelledby="audit-h"><h2 id="audit-h">Audit log</h2><p class="sub">${chain(audit)}</p>${
    rows.length === 0 ? "" : table("audit", "The last audit events, the newest first", columns, rows)
  }</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

function chain({ chain: { state, checked, fault } }: AuditView): Markup {
  if (state === "broken") return html`${tag("bad", "chain broken")} ${fault}: certautopilot audit verify`;
  if (state === "unchecked")
    return html`${tag("quiet", "chain unchecked")} this process has no CERTAUTOPILOT_AUDIT_SECRET`;
  return html`${tag("ok", "chain whole")} the last ${checked} events follow each other; certautopilot audit verify walks them all`;
}

function short(data: unknown): string {
  const MOST = 120;
  const text = JSON.stringify(data) ?? "";
  return text.length > MOST ? `${text.slice(0, MOST)}…` : text;
}
