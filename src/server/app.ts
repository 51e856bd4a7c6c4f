import { Hono } from "hono";
import type { FieldEncryption } from "../fleet/fleet_encryption.ts";
import { type ApiOptions, apiOf } from "./api/api.ts";
import { pageOf } from "./page/page.ts";
import type { StatusFeed } from "./status_feed.ts";

export interface Answers {
  encryption: Pick<FieldEncryption, "problem" | "writeVersion">;
  metrics: Hono;
  feed: StatusFeed;
  /** Names that browsers may know this server by. */
  hosts: string[];
  /** Undefined while the encrypt/decrypt API is not configured. */
  api: ApiOptions | undefined;
}

/** What `serve` answers, as one application: whoever listens hands it requests. */
export function appOf({ encryption, metrics, feed, hosts, api }: Answers): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    await next();
    if (!context.res.headers.has("cache-control")) context.header("cache-control", "no-store");
    context.header("x-content-type-options", "nosniff");
  });
  // The process runs.
  app.get("/healthz", (context) => context.json({ ok: true }));
  // It has acknowledged and may encrypt.
  app.get("/readyz", (context) => {
    const { problem } = encryption;
    return problem === undefined
      ? context.json({ ready: true, write_version: encryption.writeVersion ?? null })
      : context.json({ ready: false, reason: problem }, 503);
  });
  app.route("/", metrics);
  for (const path of ["/healthz", "/readyz", "/metrics"]) {
    app.all(path, (context) => context.json({ error: "method not allowed" }, 405));
  }
  app.route("/v1", apiOf(api));
  app.route("/", pageOf(feed, hosts));
  app.notFound((context) => context.json({ error: "not found" }, 404));
  return app;
}
