import { html } from "hono/html";
import type { RotationView } from "../../status/status_view.ts";
import { clock } from "./format.ts";
import type { Markup } from "./markup.ts";

/** The phases as a row of steps, with when each began and what it means. */
export function phaseSteps(rotation: RotationView): Markup {
  const { from, to, phase, phase_times: times, started_at: started, state, repairs } = rotation;
  const steps: [number, string, string][] = [
    [0, "Steady", `all write v${from}`],
    [1, "Announce", `all load v${to}, write v${from}`],
    [2, "Re-wrap", `all write v${to}, records move`],
    [3, "Settle", `all give v${from} up`],
  ];
  return html`<ol class="steps">${steps.map(([step, name, meaning]) => {
    const at = step === 0 ? undefined : times[String(step)];
    const skipped = repairs === true && step === 1;
    const word = step < phase ? (skipped ? "not needed" : "done") : step > phase ? "to come" : NOW[state];
    return html`<li class="${step < phase ? "done" : step > phase ? "next" : `now ${state}`}"${
      step === phase ? html` aria-current="step"` : ""
    }><b>${step} ${name}</b> <em>${word}</em><span>${meaning}</span><span>${
      step === 0 ? html`until ${clock(started)}` : at === undefined ? "" : html`since ${clock(at)}`
    }</span></li>`;
  })}</ol>`;
}

// ---------------------------------------------------------------------------------------------------------------------

const NOW: Record<RotationView["state"], string> = {
  running: "now",
  cancelled: "cancelled here",
  completed: "completed",
  reverted: "reverted",
};
