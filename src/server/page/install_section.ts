import { html } from "hono/html";
import type { StatusView } from "../../status/status_view.ts";
import { moment } from "./format.ts";
import type { Markup } from "./markup.ts";

/** The lock: written once, for ever. */
export function installSection({ install }: StatusView): Markup {
  return html`<section id="install" aria-labelledby="install-h"><h2 id="install-h">Install lock</h2><dl class="facts">
<div><dt>Provider</dt><dd>${install.provider}, for ever</dd></div><div><dt>Locked</dt><dd>${moment(install.locked_at)} by ${install.locked_by}</dd></div>
<div><dt>Install</dt><dd><code>${install.install_id}</code></dd></div></dl></section>`;
}
