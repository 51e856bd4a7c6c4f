import { html } from "hono/html";
import type { RotationView, StatusView } from "../../status/status_view.ts";
import { figure, moment, span } from "./format.ts";
import { type Markup, table, tag } from "./markup.ts";

const END: Record<RotationView["state"], ["ok" | "quiet" | "due", string]> = {
  completed: ["ok", "completed"],
  cancelled: ["quiet", "cancelled"],
  reverted: ["due", "reverted"],
  running: ["quiet", "running"],
};

/** Rotations that have ended, the newest first. */
export function historySection({ history }: StatusView): Markup {
  const columns = [
    { title: "Rotation" },
    { title: "Versions" },
    { title: "How it ended" },
    { title: "Started" },
    { title: "Took", figures: true as const },
    { title: "Records", figures: true as const },
    { title: "Started by" },
  ];
  return html`<section id="history" aria-labelledby="history-h"><h2 id="history-h">Rotation history</h2>${
    history.length === 0
      ? html`<p>No rotation has ended yet.</p>`
      : table("history", "Rotations that have ended, the newest first", columns, history.map(row))
  }</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

function row(rotation: RotationView): Markup {
  const [level, word] = END[rotation.state];
  return html`<tr><th scope="row">${rotation.rotation}</th><td>v${rotation.from} → v${rotation.to}</td><td>${tag(level, word)}${note(
    rotation,
  )}</td><td>${moment(rotation.started_at)}</td><td class="n">${span(rotation.duration_ms)}</td><td class="n">${figure(rotation.done)}</td><td>${
    rotation.started_by
  }</td></tr>`;
}

function note({ repairs, reverses, state, phase, failed_count: failed }: RotationView): Markup | string {
  const notes = [
    ...(repairs === true ? ["repaired stale envelopes"] : []),
    ...(reverses === null ? [] : [`the reverse rotation of ${reverses}`]),
    ...(state === "cancelled" || state === "reverted" ? [`in phase ${phase}`] : []),
    ...(failed > 0 ? [`${figure(failed)} failed`] : []),
  ];
  return notes.length === 0 ? "" : html` <small>${notes.join(", ")}</small>`;
}
