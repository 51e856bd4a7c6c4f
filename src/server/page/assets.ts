import { createHash } from "node:crypto";
import icon from "./icon.svg" with { type: "text" };
import script from "./live.js" with { type: "text" };
import stylesheet from "./style.css" with { type: "text" };

/** What the page is made of beside its HTML: in the binary, each under a path that names its content. */

export const STYLESHEET = asset("css", "text/css; charset=utf-8", stylesheet);
export const SCRIPT = asset("js", "text/javascript; charset=utf-8", script);
export const ICON = asset("svg", "image/svg+xml", icon);
export const ASSETS = [STYLESHEET, SCRIPT, ICON];

/** Changes when a page in a browser is of another release than the server. */
export const RELEASE = [STYLESHEET, SCRIPT].map(({ hash }) => hash).join("-");

// ---------------------------------------------------------------------------------------------------------------------

function asset(extension: string, type: string, body: string) {
  const hash = createHash("sha256").update(body).digest("hex").slice(0, 12);
  return { path: `/settings/kek-versions/${hash}.${extension}`, type, body, hash };
}
