import { html } from "hono/html";
import type { KekError } from "../../errors/errors.ts";
import type { Health } from "../../status/status_view.ts";
import type { Sighting } from "../status_feed.ts";
import { moment } from "./format.ts";
import type { Markup } from "./markup.ts";

const WORD = {
  ok: "Healthy",
  in_progress: "Rotating",
  action_due: "To do soon",
  problem: "Needs attention",
  unseen: "Out of sight",
};

/** More are told by the rows of the tables below. */
const MOST_GROUPS = 10;
const MOST_ALIKE = 3;

/** What a person wants to know first: is it well, and what is waited for. */
export function healthSection(sighting: Sighting): Markup {
  const { view, fault } = sighting;
  const said = headlineOf(sighting);
  if (fault !== undefined) {
    const since = fault.since.toISOString();
    const last =
      view === undefined
        ? html`<p>Nothing has been seen yet.</p>`
        : html`<p>Everything below is as of ${moment(view.at)}. Then it was: ${view.health.headline}.</p>`;
    const findings = [{ message: fault.error.message, hint: fault.error.hint, urgent: true }];
    return banner({
      level: "unseen",
      said,
      headline: html`${unread(fault.error)} cannot be read since ${moment(since)}`,
      findings,
      more: last,
    });
  }
  if (view === undefined)
    return banner({ level: "unseen", said, headline: html`The install has not been read yet`, findings: [] });
  return banner({
    level: view.health.level,
    said,
    headline: html`${capital(view.health.headline)}`,
    findings: view.health.findings,
  });
}

/** The headline as plain text, for the line that is read out. */
export function headlineOf({ view, fault }: Sighting): string {
  if (fault !== undefined || view === undefined) return `${WORD.unseen}: ${unread(fault?.error)} cannot be read`;
  const { level, headline } = view.health;
  return headline.startsWith(WORD[level]) ? headline : `${WORD[level]}: ${headline}`;
}

// ---------------------------------------------------------------------------------------------------------------------

/** What could not be read: there may be an answer that makes no sense. */
function unread(error: KekError | undefined): string {
  return error === undefined || error.code.startsWith("mongodb_") ? "MongoDB" : "The install";
}

function banner({
  level,
  said,
  headline,
  findings,
  more,
}: {
  level: keyof typeof WORD;
  said: string;
  headline: Markup;
  findings: Health["findings"];
  more?: Markup | undefined;
}): Markup {
  return html`<section id="health" class="health ${level}" data-said="${said}" aria-labelledby="health-h"><p class="level">${WORD[level]}</p>
<h2 id="health-h">${headline}</h2>${more}${findings.length === 0 ? "" : listed(findings)}</section>`;
}

/** Findings with the same hint are one: a fleet that lags behind is not told process by process. */
function listed(findings: Health["findings"]): Markup {
  const groups = [...Map.groupBy(findings, ({ hint }) => hint)];
  // Said where both are there: the headline counts what is to be done now.
  const mixed = findings.some(({ urgent }) => urgent) && findings.some(({ urgent }) => !urgent);
  const left = groups.length - MOST_GROUPS;
  return html`<ul>${groups
    .slice(0, MOST_GROUPS)
    .map(
      ([hint, alike]) =>
        html`<li>${alike.slice(0, MOST_ALIKE).map(({ message, urgent }) => html`<span class="line">${mixed ? kind(urgent) : ""}${message}</span>`)}${
          alike.length > MOST_ALIKE
            ? html`<span class="line">and ${alike.length - MOST_ALIKE} more like these</span>`
            : ""
        }<span class="hint">${hint}</span></li>`,
    )}${left > 0 ? html`<li>and ${left} more, marked in the tables below</li>` : ""}</ul>`;
}

function kind(urgent: boolean): Markup {
  return html`<strong>${urgent ? "problem" : "warning"}:</strong> `;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
