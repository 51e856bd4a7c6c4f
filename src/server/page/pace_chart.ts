import { html } from "hono/html";
import type { RotationView } from "../../status/status_view.ts";
import { clock, figure } from "./format.ts";
import type { Markup } from "./markup.ts";

const WIDTH = 600;
const HEIGHT = 100;

/** Records a second over time, as a line; its text says what the line shows. */
export function paceChart({ pace }: RotationView): Markup | string {
  const [first, last] = [pace[0], pace.at(-1)];
  if (first === undefined || last === undefined || first === last) return "";
  const began = Date.parse(first.at);
  const took = Math.max(1, Date.parse(last.at) - began);
  const most = Math.max(1, ...pace.map(({ rate }) => rate));
  const points = pace.map(({ at, rate }) => {
    const x = ((Date.parse(at) - began) / took) * WIDTH;
    return `${x.toFixed(1)},${(HEIGHT - (rate / most) * (HEIGHT - 4)).toFixed(1)}`;
  });
  const line = points.join(" ");
  const text = `Rate over time: at most ${figure(most)} records a second, ${figure(last.rate)} at the end, from ${first.at.slice(11, 19)} to ${last.at.slice(11, 19)} UTC`;
  return html`<figure class="pace"><figcaption>Records/s over time <span>at most ${figure(most)}</span></figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label="${text}"><path class="area" d="M0,${HEIGHT} L${line} L${WIDTH},${HEIGHT}Z"/><polyline points="${line}"/></svg>
<p><span>${clock(first.at)}</span><span>${clock(last.at)}</span></p></figure>`;
}
