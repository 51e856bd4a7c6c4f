import { html } from "hono/html";
import type { StatusView } from "../../status/status_view.ts";
import type { Sighting } from "../status_feed.ts";
import { auditSection } from "./audit_section.ts";
import { fleetSection } from "./fleet_section.ts";
import { moment } from "./format.ts";
import { healthSection } from "./health_section.ts";
import { historySection } from "./history_section.ts";
import { installSection } from "./install_section.ts";
import type { Markup } from "./markup.ts";
import { rotationSection } from "./rotation_section.ts";
import { summarySection } from "./summary_section.ts";
import { versionCountsSection } from "./version_counts_section.ts";
import { versionsSection } from "./versions_section.ts";

/** The page's sections as text, by the id of their element, in their order. Each is replaced as a whole when it changes. */
export type Sections = Record<string, string>;

/** Rendered once for each sighting, however many look. */
export async function sectionsOf(sighting: Sighting): Promise<Sections> {
  let sections = rendered.get(sighting);
  if (sections === undefined) {
    sections = render(sighting);
    rendered.set(sighting, sections);
  }
  return await sections;
}

// ---------------------------------------------------------------------------------------------------------------------

const rendered = new WeakMap<Sighting, Promise<Sections>>();

const OF_VIEW: Record<string, (view: StatusView) => Markup> = {
  glance: summarySection,
  rotation: rotationSection,
  versions: versionsSection,
  version_counts: versionCountsSection,
  fleet: fleetSection,
  history: historySection,
  install: installSection,
  audit: auditSection,
};

async function render(sighting: Sighting): Promise<Sections> {
  const { view } = sighting;
  const sections: [string, Markup][] = [
    ["asof", asOf(view)],
    ["health", healthSection(sighting)],
    ...Object.entries(OF_VIEW).map(([id, section]): [string, Markup] => [
      id,
      view === undefined ? html`<section id="${id}" hidden></section>` : section(view),
    ]),
  ];
  return Object.fromEntries(await Promise.all(sections.map(async ([id, markup]) => [id, String(await markup)])));
}

function asOf(view: StatusView | undefined): Markup {
  return html`<p id="asof">${view === undefined ? "nothing seen yet" : html`as of ${moment(view.at)}`}</p>`;
}
