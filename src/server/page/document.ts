import { html, raw } from "hono/html";
import type { Sighting } from "../status_feed.ts";
import { ICON, RELEASE, SCRIPT, STYLESHEET } from "./assets.ts";
import { headlineOf } from "./health_section.ts";
import { sectionsOf } from "./sections.ts";

export const PAGE_PATH = "/settings/kek-versions";

/** How often a browser without JavaScript asks again, in seconds. */
const REFRESH_S = 10;

/** The whole page, as it is without JavaScript. */
export async function documentOf(sighting: Sighting): Promise<string> {
  const { asof, ...sections } = await sectionsOf(sighting);
  const page = await html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">
<title>KEK Versions · certautopilot</title><link rel="icon" href="${ICON.path}"><link rel="stylesheet" href="${STYLESHEET.path}">
<script type="module" src="${SCRIPT.path}"></script><noscript><meta http-equiv="refresh" content="${REFRESH_S}"></noscript></head>
<body data-release="${RELEASE}"><a class="skip" href="#main">Skip to the status</a>
<header><div><p class="crumb">certautopilot · Settings</p><h1>KEK Versions</h1></div><div class="seen">${raw(asof ?? "")}<p id="link"><noscript>loaded again every ${REFRESH_S} s</noscript></p></div></header>
<p id="said" class="said" role="status" aria-live="polite">${headlineOf(sighting)}</p>
<main id="main" tabindex="-1"><p id="stale" hidden></p>${raw(Object.values(sections).join("\n"))}</main>
<footer><p>Read-only: rotations are started, cancelled and reversed from a shell with <code>certautopilot kek rotate</code>. All times are UTC, by MongoDB’s clock.</p></footer></body></html>
`;
  return String(page);
}
