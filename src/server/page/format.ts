import { html } from "hono/html";
import { seconds } from "../../util/duration.ts";
import type { Markup } from "./markup.ts";

/** Numbers, times and spans of time as the page writes them. */

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Thousands set apart. */
export function figure(value: number): string {
  return GROUPED.format(value);
}

export function percent(part: number, whole: number): string {
  if (whole === 0) return "0%";
  const share = (part / whole) * 100;
  // Cut, not rounded: nearly all is not all; and a few are not none.
  return part > 0 && share < 1 ? "<1%" : `${Math.floor(share)}%`;
}

/** To the second, UTC; a form that `<time>` reads. @param iso RFC 3339. */
export function moment(iso: string): Markup {
  return html`<time>${iso.slice(0, 10)} ${iso.slice(11, 19)}Z</time>`;
}

export function day(iso: string): Markup {
  return html`<time>${iso.slice(0, 10)}</time>`;
}

/** The time of day alone, where the day is plain. */
export function clock(iso: string): Markup {
  return html`<time>${iso.slice(11, 19)}Z</time>`;
}

/** A span of time, rounded to what a person would say. */
export function span(ms: number): string {
  const days = ms / 86_400_000;
  if (days >= 2) return `${Math.floor(days)} days`;
  return ms < 60_000 ? seconds(ms) : minutes(ms);
}

// ---------------------------------------------------------------------------------------------------------------------

function minutes(ms: number): string {
  const whole = Math.floor(ms / 60_000);
  if (whole < 60) return `${whole} min ${Math.floor((ms % 60_000) / 1000)} s`;
  return `${Math.floor(whole / 60)} h ${whole % 60} min`;
}
