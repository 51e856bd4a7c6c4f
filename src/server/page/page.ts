import { type Context, Hono } from "hono";
import { isOwnHost, isOwnOrigin } from "../same_host.ts";
import type { StatusFeed } from "../status_feed.ts";
import { ASSETS } from "./assets.ts";
import { documentOf, PAGE_PATH } from "./document.ts";
import { eventsOf } from "./event_stream.ts";

/** The KEK Versions page: it shows, and changes nothing. */
export function pageOf(feed: StatusFeed, hosts: string[]): Hono {
  const page = new Hono();
  for (const path of ["/", "/settings/*"]) {
    page.use(path, async (context, next) => {
      await next();
      for (const [name, value] of Object.entries(SECURITY)) context.header(name, value);
    });
    page.use(path, async (context, next) => {
      if (!isOwnHost(context.req.raw, hosts)) return refused(context, 421, FOREIGN_HOST);
      if (context.req.method !== "GET" && context.req.method !== "HEAD") {
        context.header("allow", "GET, HEAD");
        return refused(context, 405, "This page shows the install and changes nothing: it answers GET alone.\n");
      }
      await next();
      return undefined;
    });
  }
  page.get("/", (context) => context.redirect(PAGE_PATH));
  page.get(PAGE_PATH, async (context) => {
    const sighting = await feed.view();
    return context.html(await documentOf(sighting), sighting.fault === undefined ? 200 : 503);
  });
  page.get(`${PAGE_PATH}/events`, (context) => {
    if (!isOwnOrigin(context.req.raw)) return refused(context, 403, FOREIGN_ORIGIN);
    // Nobody would read the stream, and nothing would end it.
    if (context.req.method === "HEAD") return context.body(null, 200, { "content-type": "text/event-stream" });
    if (feed.watched >= MOST_VIEWERS) return context.text("As many look at this page live as may.\n", 503);
    return eventsOf(context, feed);
  });
  for (const { path, type, body } of ASSETS) {
    page.get(path, (context) => {
      // The content's hash is in the path: what is there never changes.
      context.header("cache-control", "public, max-age=31536000, immutable");
      return context.body(body, 200, { "content-type": type });
    });
  }
  return page;
}

// ---------------------------------------------------------------------------------------------------------------------

/** Each holds a connection and is sent what changes: whoever opens thousands is to cost no more than this. */
const MOST_VIEWERS = 500;

const SECURITY = {
  "content-security-policy": [
    "default-src 'none'",
    "style-src 'self'",
    "script-src 'self'",
    "connect-src 'self'",
    "img-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

const FOREIGN_HOST =
  "This server does not answer under that name. Use its address or localhost, or add the name to server.hosts (CERTAUTOPILOT_SERVER_HOSTS).\n";
const FOREIGN_ORIGIN = "Only the KEK Versions page of this server may read its events.\n";

function refused(context: Context, status: 403 | 405 | 421, why: string): Response {
  return context.text(why, status);
}
