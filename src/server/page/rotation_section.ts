import { html } from "hono/html";
import type { RotationView, StatusView } from "../../status/status_view.ts";
import { figure, moment, percent, span } from "./format.ts";
import { type Markup, table } from "./markup.ts";
import { paceChart } from "./pace_chart.ts";
import { phaseSteps } from "./phase_steps.ts";

/** Names of processes, and failed records, that are listed; the rest is counted. */
const MOST = 20;

/** The open rotation: where it stands, whom it waits for, how it goes, and the next steps. */
export function rotationSection(view: StatusView): Markup {
  const { rotation } = view;
  if (rotation === null) return html`<section id="rotation" hidden></section>`;
  const { from, to } = rotation;
  return html`<section id="rotation" aria-labelledby="rotation-h"><h2 id="rotation-h">Rotation ${rotation.rotation}: v${from} → v${to}</h2>
<p class="sub">${kindOf(rotation)} Started ${moment(rotation.started_at)} by ${rotation.started_by}, ${span(rotation.duration_ms)} ago.
${ledBy(rotation)}</p>
${phaseSteps(rotation)}
<div class="cols"><div>${waitedFor(rotation)}${commands(rotation)}</div>
<div>${records(rotation)}${paceChart(rotation)}</div></div>
${fields(rotation)}${failedRecords(rotation)}</section>`;
}

// ---------------------------------------------------------------------------------------------------------------------

function kindOf({ repairs, reverses }: RotationView): string {
  if (repairs === true) return "Repairs stale envelopes.";
  return reverses === null ? "" : `The reverse rotation of rotation ${reverses}.`;
}

function ledBy({ state, coordinator, lease_ran_out_ms: late }: RotationView): Markup {
  if (state === "cancelled") return html`<strong class="due">Cancelled half way: both versions stay readable.</strong>`;
  if (coordinator === null) return html`<strong class="bad">Nobody leads it.</strong>`;
  if (late === null) return html`Led by ${coordinator}.`;
  return html`<strong class="bad">Its coordinator ${coordinator} is gone: the lease ran out ${span(late)} ago.</strong>`;
}

function records(rotation: RotationView): Markup {
  const { from, to, done, remaining, failed_count: failed } = rotation;
  const whole = done + remaining;
  const count =
    whole === 0
      ? html`<p>They move from v${from} to v${to} in phase 2.</p>`
      : html`<p class="big">${percent(done, whole)} <small>${figure(done)} of ${figure(whole)} moved to v${to}, ${figure(remaining)} left${
          failed > 0 ? html`, <strong class="bad">${figure(failed)} failed</strong>` : ""
        }</small></p>`;
  return html`<h3>Records</h3>${count}<dl class="facts">
<div><dt>Rate</dt><dd>${rotation.rate === null ? "–" : `${figure(rotation.rate)} records/s`}</dd></div>
<div><dt>Time left</dt><dd>${rotation.eta_ms === null ? "–" : `about ${span(rotation.eta_ms)}`}</dd></div>
<div><dt>Fence</dt><dd>${fence(rotation)}</dd></div></dl>`;
}

function waitedFor({ acknowledged, awaited, phase, state }: RotationView): Markup {
  if (state === "cancelled")
    return html`<h3>Waits for an operator</h3><p>New values are written under the new version; the rest stays where it is until somebody continues, or back.</p>`;
  const all = acknowledged.length + awaited.length;
  if (awaited.length === 0)
    return html`<h3>Waits for nobody</h3><p>All ${all} processes have acknowledged phase ${phase}.</p>${names("acknowledged", "Who has acknowledged", acknowledged)}`;
  return html`<h3>Waits for ${awaited.length} of ${all} processes</h3><ul class="awaited">${awaited
    .slice(0, MOST)
    .map((name) => html`<li>${name}</li>`)}${more(awaited.length - MOST)}</ul>
${names("acknowledged", `${acknowledged.length} have acknowledged phase ${phase}`, acknowledged)}`;
}

function names(id: string, title: string, list: string[]): Markup {
  if (list.length === 0) return html`<p>Nobody has acknowledged yet.</p>`;
  return html`<details id="${id}"><summary id="${id}-s">${title}</summary><ul>${list
    .slice(0, MOST)
    .map((name) => html`<li>${name}</li>`)}${more(list.length - MOST)}</ul></details>`;
}

function more(count: number): Markup | string {
  return count > 0 ? html`<li>and ${count} more</li>` : "";
}

/** As text: whoever looks here decides nothing here. */
function commands({ next_steps: nextSteps }: RotationView): Markup {
  if (nextSteps.length === 0)
    return html`<h3>Next steps</h3><p>It completes by itself; after that it can be reversed.</p>`;
  return html`<h3>Next steps</h3><dl class="next-steps">${nextSteps.map(
    ({ does, command }) => html`<div class="way"><dt>${does}</dt><dd><code>${command}</code></dd></div>`,
  )}</dl>`;
}

function fence({ fenced, from, phase }: RotationView): string {
  if (fenced.includes(from)) return `up: MongoDB rejects v${from}`;
  if (fenced.length > 0) return `up for ${fenced.map((version) => `v${version}`).join(", ")}`;
  return phase === 3 ? "not set" : `not yet: at zero records of v${from}`;
}

function fields({ fields: list, from, to }: RotationView): Markup | string {
  if (list.length === 0) return "";
  const columns = [
    { title: "Field" },
    { title: "Moved", figures: true as const },
    { title: "Left", figures: true as const },
    { title: "Failed", figures: true as const },
    { title: "Done" },
  ];
  const rows = list.map(({ field, done, remaining, failed }) => {
    const whole = done + remaining;
    const share = whole === 0 ? "none to move" : percent(done, whole);
    const width = whole === 0 ? 0 : Math.round((done / whole) * 1000) / 10;
    return html`<tr><th scope="row">${field}</th><td class="n">${figure(done)}</td><td class="n">${figure(remaining)}</td><td class="n${
      failed > 0 ? " bad" : ""
    }">${figure(failed)}</td><td class="bar-cell"><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="10"/><rect class="to" width="${width}" height="10"/></svg> ${share}</td></tr>`;
  });
  return table("progress", `Records moved from v${from} to v${to}, by field`, columns, rows);
}

function failedRecords({ failed, failed_count: count }: RotationView): Markup | string {
  if (failed.length === 0) return "";
  const rows = failed
    .slice(0, MOST)
    .map(
      ({ field, id, reason }) =>
        html`<tr><th scope="row"><code>${id}</code></th><td>${field}</td><td>${reason}</td></tr>`,
    );
  const rest = count - rows.length;
  return html`${table("failed", "Records that cannot be rewrapped", [{ title: "Record" }, { title: "Field" }, { title: "Reason" }], rows)}${
    rest > 0 ? html`<p>and ${figure(rest)} more: certautopilot kek status</p>` : ""
  }`;
}
